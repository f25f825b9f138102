"""Connections that a dealer hands over, on a real loopback."""

import array
import asyncio
import contextlib
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import cast

import pytest

from service.dealt_connections import Channel, Dealer, Loop

CLIENTS = 60
WAIT_S = 5.0


@pytest.fixture(params=["127.0.0.1", "::1"])
def bound(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as bound:
        bound.bind((request.param, 0))
        yield bound


@pytest.fixture
def path(bound: socket.socket, tmp_path: Path) -> Iterator[str]:
    """Where workers connect to a dealer that runs."""
    with Dealer.running([bound], tmp_path / "connections.sock"):
        yield str(tmp_path / "connections.sock")


class Worker:
    """A worker's end, without an event loop: takes and reports when it is told to."""

    def __init__(self, path: str) -> None:
        with Channel(path) as sent:
            self.channel = pickle.loads(ForkingPickler.dumps(sent))
        self.channel.connect(path)
        self.channel.settimeout(0.1)
        self.taken: list[socket.socket] = []
        self.ended = 0

    def take(self) -> int:
        """All that is handed over within a short while; how many that were."""
        before = len(self.taken)
        with contextlib.suppress(TimeoutError):
            while True:
                _, ancillary, _, _ = self.channel.recvmsg(1, socket.CMSG_LEN(4))
                (handle,) = array.array("i", ancillary[0][2])
                self.taken.append(socket.socket(fileno=handle))
        return len(self.taken) - before

    def report(self) -> None:
        self.channel.send(struct.pack("=QQ", len(self.taken), self.ended))
        time.sleep(0.1)  # until it is heard

    def end(self, count: int) -> None:
        """End some of what was taken."""
        for connection in self.taken[self.ended : self.ended + count]:
            connection.close()
        self.ended += count

    def close(self) -> None:
        self.channel.close()
        for connection in self.taken:
            connection.close()


@pytest.fixture
def work(path: str) -> Iterator[Callable[[], Worker]]:
    with contextlib.ExitStack() as stack:

        def begin() -> Worker:
            return stack.enter_context(contextlib.closing(Worker(path)))

        yield begin


@pytest.fixture
def connect(bound: socket.socket) -> Iterator[Callable[[int], list[socket.socket]]]:
    with contextlib.ExitStack() as stack:

        def connect(count: int) -> list[socket.socket]:
            return [stack.enter_context(connected(bound)) for _ in range(count)]

        yield connect


def connected(bound: socket.socket) -> socket.socket:
    """A client; waits while nobody listens yet."""
    until_s = time.monotonic() + WAIT_S
    while True:
        client = socket.socket(bound.family)
        client.settimeout(WAIT_S)
        try:
            client.connect(bound.getsockname())
        except ConnectionRefusedError:
            client.close()
            if time.monotonic() > until_s:
                raise
            time.sleep(0.01)
        else:
            return client


Connect = Callable[[int], list[socket.socket]]
Work = Callable[[], Worker]


def test_each_worker_gets_as_many(work: Work, connect: Connect) -> None:
    workers = [work() for _ in range(3)]
    time.sleep(0.1)
    clients = connect(CLIENTS)
    assert [worker.take() for worker in workers] == [CLIENTS // 3] * 3
    ports = {client.getsockname()[1] for client in clients}
    assert ports == {one.getpeername()[1] for worker in workers for one in worker.taken}


def test_who_has_fewest_open_gets_the_next(work: Work, connect: Connect) -> None:
    first, second = work(), work()
    time.sleep(0.1)
    connect(20)
    assert (first.take(), second.take()) == (10, 10)
    first.end(6)
    first.report()
    second.report()
    connect(6)
    assert (first.take(), second.take()) == (6, 0)


def test_a_worker_that_is_new_catches_up(work: Work, connect: Connect) -> None:
    old = work()
    connect(6)
    assert old.take() == 6
    old.report()
    new = work()
    time.sleep(0.1)
    connect(6)
    assert (old.take(), new.take()) == (0, 6)


def test_a_worker_that_takes_nothing_gets_little(work: Work, connect: Connect) -> None:
    _, second = work(), work()
    time.sleep(0.1)
    for _ in range(6):
        connect(12)
        second.take()
        second.report()
    assert len(second.taken) >= 72 - 16


def test_too_many_at_once_wait(work: Work, connect: Connect) -> None:
    worker = work()
    connect(100)
    assert worker.take() == 64
    worker.report()
    assert worker.take() == 36


def test_nobody_waits_for_a_worker_that_ended(work: Work, connect: Connect) -> None:
    ended, left = work(), work()
    time.sleep(0.1)
    ended.close()
    connect(20)
    assert left.take() == 20


def test_where_no_worker_is_nobody_listens(
    work: Work, connect: Connect, bound: socket.socket
) -> None:
    def is_refused() -> bool:
        with socket.socket(bound.family) as client:
            return client.connect_ex(bound.getsockname()) != 0

    assert is_refused()
    for _ in range(2):
        worker = work()
        connect(1)
        assert worker.take() == 1
        worker.close()
        time.sleep(0.1)
        assert is_refused()


class Echo(asyncio.Protocol):
    def __init__(self, made: list["Echo"]) -> None:
        made.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@contextlib.contextmanager
def serving(path: str) -> Iterator[None]:
    """An event loop of a worker, in a thread."""
    loop, begun, made = Loop(), threading.Event(), list[Echo]()

    async def serve() -> None:
        end = asyncio.Event()
        server = await loop.create_server(lambda: Echo(made), sock=Channel(path))
        loop.call_soon(begun.set)
        ending.append(end)
        await end.wait()
        server.close()
        for echo in made:
            echo.transport.close()
        await asyncio.sleep(0.1)

    ending: list[asyncio.Event] = []
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert begun.wait(WAIT_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ending[0].set)
        thread.join()
        loop.close()


def answers(client: socket.socket) -> bool:
    client.send(b"here")
    return client.recv(9) == b"here"


def test_an_event_loop_serves_what_it_is_dealt(path: str, connect: Connect, work: Work) -> None:
    with serving(path):
        clients = connect(100)
        assert all(answers(client) for client in clients)
        other = work()
        time.sleep(0.1)
        connect(6)
        assert other.take() == 6
        other.report()
        for client in clients[:97]:
            client.close()
        time.sleep(0.4)
        assert all(answers(client) for client in clients[97:] + connect(3))
        assert other.take() == 0


def test_what_is_open_outlives_the_dealer(tmp_path: Path) -> None:
    with socket.socket() as bound, contextlib.ExitStack() as stack:
        bound.bind(("127.0.0.1", 0))
        with Dealer.running([bound], tmp_path / "connections.sock"):
            stack.enter_context(serving(str(tmp_path / "connections.sock")))
            client = stack.enter_context(connected(bound))
            assert answers(client)
        assert answers(client)


FAILS = """
import socket, sys, time
from pathlib import Path
from service.dealt_connections import Channel, Dealer
bound = socket.socket()
bound.close()
with Dealer.running([bound], Path(sys.argv[1])), Channel(sys.argv[1]) as channel:
    channel.connect(channel.path)
    time.sleep(60)
"""


def test_a_dealer_that_fails_ends_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAILS, str(tmp_path / "connections.sock")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ended.returncode == -signal.SIGTERM
    assert "Bad file descriptor" in ended.stdout + ended.stderr
