"""Sockets that each worker binds for itself, on a real loopback."""

import contextlib
import pickle
import select
import socket
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import pytest

from service.worker_sockets import WorkerSocket, bind_several

CLIENTS = 64


@pytest.fixture
def stack() -> contextlib.ExitStack:
    with contextlib.ExitStack() as stack:
        yield stack


def reserve(stack: contextlib.ExitStack, host: str = "127.0.0.1") -> list[WorkerSocket]:
    """What the parent keeps and sends to each worker."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = stack.enter_context(socket.socket(family))
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, 0))
    return [stack.enter_context(one) for one in WorkerSocket.several(bound)]


def listen(stack: contextlib.ExitStack, reserved: list[WorkerSocket]) -> list[socket.socket]:
    """What a worker makes of it."""
    sent = pickle.loads(ForkingPickler.dumps(reserved))
    for one in sent:
        stack.enter_context(one).listen(CLIENTS)
    return sent


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


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_are_dealt_out_to_all_workers(stack: contextlib.ExitStack, host: str) -> None:
    reserved = reserve(stack, host)
    address = reserved[0].getsockname()
    workers = [listen(stack, reserved) for _ in range(2)]
    assert {one.getsockname() for worker in workers for one in worker} == {address}
    connect(stack, address, reserved[0].family)
    counts = [waiting(worker) for worker in workers]
    assert sum(counts) == CLIENTS
    # A hash of the ports: fewer than 10 of 64 come once in a thousand million times.
    assert min(counts) >= 10


def test_nothing_waits_for_a_worker_that_ended(stack: contextlib.ExitStack) -> None:
    reserved = reserve(stack)
    ended, left = (listen(stack, reserved) for _ in range(2))
    for one in ended:
        one.close()
    connect(stack, reserved[0].getsockname(), socket.AF_INET)
    assert waiting(left) == CLIENTS


def test_an_address_is_taken_once(stack: contextlib.ExitStack) -> None:
    reserved = reserve(stack)
    listen(stack, reserved)
    other = stack.enter_context(socket.socket())
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with pytest.raises(OSError, match="in use"):
        other.bind(reserved[0].getsockname())


def test_who_answers_alone_has_several_too(stack: contextlib.ExitStack) -> None:
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
        taken = listen(stack, reserve(stack))[0].getsockname()[1]
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
