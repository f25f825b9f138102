"""What needs an admin's key on a port of its own, as an operator starts it."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from live_service import running_process

from benchmarks.service_process import free_port

KEY = "an-admins-key"
FOR_ADMINS = ["/admin/models", "/users", "/users/u1/history", "/admin/experiments", "/nothing"]
FOR_OTHERS = ["/health/live", "/health/ready", "/openapi.json", "/metrics", "/videos?id=v1"]


@pytest.fixture(params=["1", "2"], scope="module")
def ports(
    request: pytest.FixtureRequest, tiny_master: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int]]:
    """The public port and the admins', of a service with one or two workers."""
    admin_port = free_port()
    folder = tmp_path_factory.mktemp(f"ports-{request.param}")
    arguments = ("--host", "127.0.0.1", "--workers", request.param)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LSVCR_ADMIN_KEYS", KEY)
        environment.setenv("LSVCR_ADMIN_PORT", str(admin_port))
        with running_process(tiny_master, folder, *arguments) as live:
            public_port = urlsplit(live.url).port
            assert public_port is not None
            await_ready(public_port)
            yield public_port, admin_port


def await_ready(port: int) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        try:
            if ask(port, "/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("not ready")


def ask(port: int, path: str, **headers: str) -> tuple[int, dict[str, object] | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}", **headers})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    is_json = "json" in response.headers["content-type"]
    return response.status, json.loads(body) if is_json else None


@pytest.mark.parametrize("path", FOR_ADMINS)
def test_the_public_port_knows_nothing_of_an_admins(ports: tuple[int, int], path: str) -> None:
    public_port, admin_port = ports
    status, problem = ask(public_port, path, Host=f"127.0.0.1:{admin_port}")
    assert status == 404
    assert problem is not None and problem["detail"] == "Not Found"
    assert ask(admin_port, path)[0] == (404 if path == "/nothing" else 200)


@pytest.mark.parametrize("path", FOR_OTHERS)
def test_all_else_is_on_both_ports(ports: tuple[int, int], path: str) -> None:
    assert [ask(port, path)[0] for port in ports] == [200, 200]
