"""Sockets of a process that answers alone, on a real loopback."""

import contextlib
import select
import socket
import subprocess
import sys

import pytest

from service.lone_sockets import bind_several

CLIENTS = 64


@pytest.fixture
def stack() -> contextlib.ExitStack:
    with contextlib.ExitStack() as stack:
        yield stack


def waiting(listening: list[socket.socket]) -> int:
    """Connections that can be accepted; takes them."""
    taken = 0
    while ready := select.select(listening, [], [], 0)[0]:
        for one in ready:
            one.accept()[0].close()
            taken += 1
    return taken


def connect(stack: contextlib.ExitStack, address: tuple[object, ...], family: int) -> None:
    for _ in range(CLIENTS):
        client = stack.enter_context(socket.socket(family))
        client.connect(address)


def test_connections_come_by_all_of_them(stack: contextlib.ExitStack) -> None:
    several = [stack.enter_context(one) for one in bind_several("127.0.0.1", 0)]
    for one in several:
        one.listen(CLIENTS)
    assert len(several) > 1
    assert len({one.getsockname() for one in several}) == 1
    connect(stack, several[0].getsockname(), socket.AF_INET)
    assert waiting(several) == CLIENTS
    with pytest.raises(OSError, match="in use"):
        bind_several(*several[0].getsockname())


@pytest.mark.parametrize(
    ("flag", "beside"),
    [("--port", []), ("--port", ["--workers", "2"]), ("--admin-port", ["--port", "0"])],
)
def test_a_service_does_not_share_its_port_with_another_by_mistake(
    flag: str, beside: list[str]
) -> None:
    with contextlib.ExitStack() as stack:
        several = [stack.enter_context(one) for one in bind_several("127.0.0.1", 0)]
        several[0].listen(CLIENTS)
        taken = several[0].getsockname()[1]
        ended = serve_in_vain(flag, str(taken), *beside)
    assert ended.returncode == 2
    assert f"{flag} {taken}: Address already in use" in ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_certificate_that_is_missing_is_named(workers: str) -> None:
    ended = serve_in_vain("--port", "0", "--workers", workers, "--tls-certificate", "none.pem")
    assert ended.returncode == 2
    assert "--tls-certificate none.pem" in ended.stderr
    assert "No such file or directory" in ended.stderr


def serve_in_vain(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", "--registry", ".", *arguments]
    command += ["--redis", "redis://127.0.0.1:1/0"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
