"""How much of a store's file is on the disk for sure: what a power cut would leave."""

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from faults.store_server import StoreServer

LOOK_S = 0.005
MOST_WAIT_S = 5.0


class SyncedSize:
    """Watches a server sync its file, by `strace`, until the server has ended.

    Args:
        seen: File for what `strace` tells.

    The server's own word isn't enough: asked by WAITAOF, Valkey 9.1 with `everysec` answers at
    once, though the next sync comes up to a second later.
    """

    def __init__(self, store: StoreServer, seen: Path) -> None:
        self._store = store
        self._sizes: list[tuple[float, int]] = []
        self._ending = threading.Event()
        self._seen = seen

    @staticmethod
    def can_watch() -> bool:
        """Whether `strace` is there."""
        return shutil.which("strace") is not None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch while the block runs, which ends the server."""
        command = ["strace", "-f", "-ttt", "-e", "trace=fdatasync,fsync", "-o", str(self._seen)]
        tracing = subprocess.Popen([*command, "-p", str(self._store.pid)], stderr=subprocess.PIPE)
        looking = threading.Thread(target=self._look, daemon=True)
        looking.start()
        yield
        self._ending.set()
        looking.join()
        tracing.communicate(timeout=20)

    def syncs_s(self) -> list[float]:
        """When syncs began, Unix time."""
        lines = [line.split() for line in self._seen.read_text().splitlines()]
        return [float(line[1]) for line in lines if "sync(" in line[2]]

    def await_next(self) -> None:
        """Wait for a sync."""
        before = len(self.syncs_s())
        until_s = time.monotonic() + MOST_WAIT_S
        while len(self.syncs_s()) == before and time.monotonic() < until_s:
            time.sleep(LOOK_S)

    def size_bytes(self) -> int:
        """How long the file was when the last sync began."""
        last_s = self.syncs_s()[-1]
        return max(size for at_s, size in self._sizes if at_s < last_s)

    def _look(self) -> None:
        while not self._ending.is_set():
            self._sizes.append((time.time(), os.stat(self._store.log_file()).st_size))
            time.sleep(LOOK_S)
