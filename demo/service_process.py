"""Starts `python -m service`, and stops it."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

from demo.errors import DemoError
from lsvcr_client import Client, ClientError, Retries
from lsvcr_client.requests import CheckReady

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
HOST = "127.0.0.1"
TIMEOUT_MS = 30_000
ASK_ONCE = Retries(attempts=1)


def need_free_port(port: int) -> None:
    """Raise DemoError if something listens on `port`: better now than after the training."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DemoError(f"port {port} can't be used ({error.strerror}): --port N") from error


@contextlib.contextmanager
def running_service(folder: Path, port: int) -> Iterator[Client]:
    """Serve `folder`/registry until the end of the `with`, then stop service and store.

    Raises:
        DemoError: If the service doesn't become ready.
    """
    arguments = ["--registry", str(folder / "registry"), "--port", str(port)]
    arguments += ["--redis", "embedded", "--store-folder", str(folder / "store")]
    print(f"$ python -m service {' '.join(arguments)}", flush=True)
    log_path = folder / "service.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        # Without the environment's proxies: the service is on this machine.
        with httpx2.Client(trust_env=False) as http:
            url = f"http://{HOST}:{port}"
            _await_ready(Client(url, http=http, retries=ASK_ONCE), process, log_path)
            yield Client(url, timeout_ms=TIMEOUT_MS, http=http)
        if process.poll() is not None:
            raise DemoError(f"the service ended by itself; its log is {log_path}")
    finally:
        _stop(process)


def _await_ready(client: Client, process: subprocess.Popen[bytes], log_path: Path) -> None:
    started_s = time.monotonic()
    while True:
        try:
            client.send(CheckReady())
            break
        except ClientError as error:
            if process.poll() is not None:
                tail = log_path.read_text(errors="replace").strip().splitlines()[-5:]
                raise DemoError("\n  ".join(["the service did not start:", *tail])) from error
            if time.monotonic() - started_s > START_TIMEOUT_S:
                raise DemoError(f"the service is not ready: {error}") from error
        time.sleep(0.1)
    print(f"ready after {time.monotonic() - started_s:.1f} s, log in {log_path}", flush=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the service, which then stops its store; after Ctrl-C it is stopping already."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise DemoError("the service did not stop and was killed") from None
