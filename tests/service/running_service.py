"""`python -m service` in a process of its own, and a plain way to talk to it."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE_S = 60.0
_PORT = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


class Service(NamedTuple):
    pid: int
    port: int


@contextlib.contextmanager
def running(registry: Path, store_url: str, *arguments: str) -> Iterator[Service]:
    """A service that is ready, on a free port."""
    command = [sys.executable, "-m", "service", "--registry", str(registry), "--device", "cpu"]
    command += ["--redis", store_url, "--port", "0", *arguments]
    with (
        tempfile.NamedTemporaryFile("w+") as log,
        subprocess.Popen(
            command, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ) as process,
    ):
        output = Path(log.name)
        try:
            wait_for(lambda: process.poll() is not None or _PORT.search(output.read_text()))
            found = _PORT.search(output.read_text())
            assert found is not None, output.read_text()
            service = Service(process.pid, int(found[1]))
            wait_for(lambda: _is_ready(service.port))
            yield service
        finally:
            process.terminate()


def fetch(port: int, path: str, body: object = None) -> str:
    """Ask on a connection of its own: where several processes listen, the kernel picks one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content)
        return connection.getresponse().read().decode()


def send(port: int, path: str, body: object) -> dict[str, Any]:
    """POST and read the JSON that comes back."""
    answer: dict[str, Any] = json.loads(fetch(port, path, body))
    return answer


def wait_for(is_so: Callable[[], object]) -> None:
    """Ask again until it is so."""
    until_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.05)


def _is_ready(port: int) -> bool:
    try:
        return json.loads(fetch(port, "/health/ready"))["status"] == "ready"
    except ConnectionError:  # nobody listens yet
        return False
