"""Starts `python -m service` and talks to it over HTTP, with the standard library alone."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo.errors import DemoError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
HOST = "127.0.0.1"


class ServiceClient:
    """A service's answers as Python objects."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        """Ask for something; raises DemoError for any answer but a good one."""
        return self._send("GET", path, None)

    def post(self, path: str, body: object) -> Any:
        """Send JSON; raises DemoError for any answer but a good one."""
        return self._send("POST", path, body)

    def delete(self, path: str) -> None:
        """Delete something; raises DemoError for any answer but a good one."""
        self._send("DELETE", path, None)

    def is_ready(self) -> bool:
        """Whether the service answers with a model."""
        try:
            self.get("/health/ready")
        except DemoError:
            return False
        return True

    def _send(self, method: str, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        # Without the environment's proxies: the service is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")
            raise DemoError(f"{method} {path} answered {error.code}: {detail}") from error
        except OSError as error:
            raise DemoError(f"{method} {path} got no answer: {error}") from error
        return json.loads(content) if content else None


def need_free_port(port: int) -> None:
    """Raise DemoError if something listens on `port`: better now than after the training."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DemoError(f"port {port} can't be used ({error.strerror}): --port N") from error


@contextlib.contextmanager
def running_service(folder: Path, port: int) -> Iterator[ServiceClient]:
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
        client = ServiceClient(f"http://{HOST}:{port}")
        _await_ready(client, process, log_path)
        yield client
        if process.poll() is not None:
            raise DemoError(f"the service ended by itself; its log is {log_path}")
    finally:
        _stop(process)


def _await_ready(client: ServiceClient, process: subprocess.Popen[bytes], log_path: Path) -> None:
    started_s = time.monotonic()
    while True:
        try:
            client.get("/health/ready")
            break
        except DemoError as error:
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
