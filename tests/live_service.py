"""Runs `python -m service` as an operator does, for tests that talk to it from outside."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PATIENT = (
    "--deadline-ms",
    "30000",
    "--store-timeout-ms",
    "5000",
    "--store-write-timeout-ms",
    "5000",
)
"""The test machine may be busy."""


class LiveService(NamedTuple):
    url: str
    pid: int


@contextlib.contextmanager
def running_service(registry: Path, folder: Path, *arguments: str) -> Iterator[str]:
    """As `running_process`, for who needs the URL alone."""
    with running_process(registry, folder, *arguments) as live:
        yield live.url


@contextlib.contextmanager
def running_process(
    registry: Path, folder: Path, *arguments: str, ends_with: int = 0
) -> Iterator[LiveService]:
    """A service on a free port, with an embedded store below `folder` unless told otherwise.

    Its log is `folder`/log; it has to stop by itself, and well, when it is told to.
    """
    log_path = folder / "log"
    command = [sys.executable, "-m", "service", "--registry", str(registry), "--port", "0"]
    command += ["--store-folder", str(folder / "store"), "--device", "cpu", *PATIENT, *arguments]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield LiveService(_wait_for_url(process, log_path), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(timeout=20)
        finally:
            process.kill()
    assert status == ends_with


def _wait_for_url(process: "subprocess.Popen[bytes]", log_path: Path) -> str:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s and process.poll() is None:
        for word in log_path.read_text().split():
            if word.startswith(("http://", "https://")):
                return word
        time.sleep(0.05)
    raise AssertionError(log_path.read_text())
