"""One `python -m service` process, as an orchestrator would run it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.service_process import free_port

ADMIN_KEY = "admin-key-of-the-fault-suite"
START_S = 60


class Replica:
    """A service on a fixed port; `kill` is `kill -9`.

    Args:
        arguments: Further flags.
        log: Where standard error goes.
        within: A command that runs the service as its arguments.
    """

    def __init__(
        self,
        registry: Path,
        store_url: str,
        log: Path,
        *,
        arguments: tuple[str, ...] = (),
        within: tuple[str, ...] = (),
    ) -> None:
        self.port = free_port()
        self._log = log
        self._command = [*within, sys.executable, "-m", "service", "--registry", str(registry)]
        self._command += ["--redis", store_url, "--port", str(self.port), "--host", "127.0.0.1"]
        self._command += ["--device", "cpu", "--log-level", "warning", *arguments]
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "LSVCR_ADMIN_KEYS": ADMIN_KEY,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The main process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it is ready."""
        self.launch()
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            if self.readiness()[0] == 200:
                return
            time.sleep(0.05)
        raise RuntimeError(f"the service is not ready: {self._log}")

    def launch(self) -> None:
        """Start without waiting."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stderr=log)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> float:
        """End it in order, and say how many seconds that took."""
        started_s = time.monotonic()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=30)
        return time.monotonic() - started_s

    def children(self) -> list[int]:
        """Process ids of its workers and engines, the oldest first, whichever thread began them."""
        lists = Path(f"/proc/{self.pid}/task").glob("*/children")
        pids = [int(pid) for one in lists for pid in one.read_text().split()]
        return sorted(pids, key=_started)

    def readiness(self) -> tuple[int, list[str]]:
        """Status of `/health/ready` (0 without an answer) and what is degraded."""
        try:
            status, answer = self.call("GET", "/health/ready", timeout_s=2)
        except OSError:
            return 0, []
        return status, answer.get("degraded", answer.get("reasons", []))

    def call(
        self, method: str, path: str, body: object = None, *, timeout_s: float = 30
    ) -> tuple[int, Any]:
        """One request with the admin key: status and JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(
                method, path, content, headers={"Authorization": f"Bearer {ADMIN_KEY}"}
            )
            response = connection.getresponse()
            raw = response.read()
            return response.status, json.loads(raw) if raw else None
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()


def _started(pid: int) -> int:
    """When a process began, in ticks since the machine did; ids themselves begin anew some time."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[19])
