"""`python -m service` in a process of its own, and a plain way to talk to it."""

import contextlib
import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from live_service import running_process

PATIENCE_S = 60.0


class Service(NamedTuple):
    pid: int
    port: int


@contextlib.contextmanager
def running(registry: Path, store_url: str, *arguments: str) -> Iterator[Service]:
    """A service on a store of its own choice that is ready."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_process(registry, Path(folder), "--redis", store_url, *arguments) as live,
    ):
        port = int(live.url.rsplit(":", 1)[1])
        wait_for(lambda: _is_ready(port))
        yield Service(live.pid, port)


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
