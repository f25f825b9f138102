"""What is refused before anything is spent on it, and what never is."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from app_client import make_settings, serve
from asgi_server import serving
from starlette.types import Receive, Scope, Send

from service.load_shedding import (
    ALWAYS,
    BUSY,
    FIRST_SAMPLE,
    SAMPLE,
    CountUnderWay,
    LoadShedding,
    SheddingProtocol,
)
from service.metrics import Metrics

PATH = "/recommend/videos"
REQUEST_SECONDS = 0.125


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def new_shedding(max_wait_s: float, most: int = 10_000) -> tuple[LoadShedding, Metrics, Clock]:
    clock, metrics = Clock(), Metrics(max_queue=1)
    shedding = LoadShedding(
        paths=[PATH], metrics=metrics, max_wait_s=max_wait_s, most=most, clock=clock
    )
    return shedding, metrics, clock


def warmed(
    max_wait_s: float, answers: int = SAMPLE, most: int = 10_000
) -> tuple[LoadShedding, Metrics, Clock]:
    """After some requests, of `REQUEST_SECONDS` each, beside some that were under way."""
    shedding, metrics, clock = new_shedding(max_wait_s, most)
    for _ in range(BUSY - 1):
        shedding.begin()
    for _ in range(answers):
        answer(shedding, clock, REQUEST_SECONDS)
    for _ in range(BUSY - 1):
        shedding.end()
    return shedding, metrics, clock


def answer(shedding: LoadShedding, clock: Clock, seconds: float) -> None:
    shedding.begin()
    clock.now_s += seconds
    shedding.end()


def let_in(shedding: LoadShedding, asked: int) -> int:
    begun = 0
    while begun < asked and not shedding.is_full:
        shedding.begin()
        begun += 1
    return begun


@pytest.mark.parametrize("answers", [FIRST_SAMPLE, SAMPLE])
def test_as_many_are_let_in_as_can_be_answered_in_time(answers: int) -> None:
    shedding, _, _ = warmed(100 * REQUEST_SECONDS, answers)
    assert let_in(shedding, 150) == 100
    shedding.end()
    assert let_in(shedding, 150) == 1


def test_a_few_requests_are_never_refused() -> None:
    shedding, _, _ = warmed(max_wait_s=0)
    assert let_in(shedding, 150) == ALWAYS


def test_what_a_few_requests_take_is_no_measure() -> None:
    shedding, _, clock = warmed(max_wait_s=100 * REQUEST_SECONDS)
    for _ in range(SAMPLE):
        answer(shedding, clock, 1000.0)
    assert let_in(shedding, 150) == 100


def test_all_are_let_in_until_it_is_known_how_fast_they_are() -> None:
    shedding, _, _ = new_shedding(max_wait_s=0)
    assert let_in(shedding, 10 * ALWAYS) == 10 * ALWAYS


@pytest.mark.parametrize("most", [10, 90])
def test_no_more_are_let_in_than_the_application_takes(most: int) -> None:
    not_yet_measured, _, _ = new_shedding(max_wait_s=100 * REQUEST_SECONDS, most=most)
    assert let_in(not_yet_measured, 150) == most
    measured, _, _ = warmed(max_wait_s=100 * REQUEST_SECONDS, most=most)
    assert let_in(measured, 150) == most


@pytest.mark.parametrize("setting", ["max_queue", "max_under_way"])
def test_whatever_else_would_refuse_is_never_reached(
    setting: str, tiny_master: Path, store_url: str
) -> None:
    with serve(make_settings(tiny_master, store_url, **{setting: 70})) as client:
        assert let_in(client.app_state["load_shedding"], 150) == 70


class App:
    """Stands where all the rest would: gives bodies back, some only when it is told to."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.begun: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.append(scope["path"])
        if (b"waits", b"yes") in scope["headers"]:
            await self.may_end.wait()
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def served(shedding: LoadShedding, app: App) -> contextlib.AbstractAsyncContextManager[int]:
    """A real server's port."""
    counted = CountUnderWay(app, shedding=shedding)

    async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await counted(scope, receive, send)
            return
        scope["state"]["load_shedding"] = shedding
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})

    return serving(with_lifespan, SheddingProtocol, lifespan="on")


class Connection:
    """A client that decides itself what goes out when."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0.02)  # so that they arrive one by one

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = dict(line.lower().split(": ", 1) for line in head[1:-1])
        body = await self._reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def is_closed(self) -> bool:
        return await self._reader.read(1) == b""

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()


def head(path: str = PATH, *, body: int = 0, method: str = "POST", **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    text = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {body}\r\n{''.join(lines)}\r\n"
    return text.encode()


def against_a_full_server(
    scenario: Callable[[int, LoadShedding, App], Awaitable[None]],
) -> Metrics:
    async def main() -> Metrics:
        shedding, metrics, _ = warmed(max_wait_s=0)
        let_in(shedding, ALWAYS)
        app = App()
        async with served(shedding, app) as port:
            await asyncio.wait_for(scenario(port, shedding, app), 20)
        metrics.settle()
        return metrics

    return asyncio.run(main())


def test_a_refusal_is_a_problem_with_the_callers_id() -> None:
    async def scenario(port: int, shedding: LoadShedding, app: App) -> None:
        connection = await Connection.to(port)
        await connection.send(head(body=2, X_Request_Id='my "id"') + b"{}")
        status, headers, body = await connection.answer()
        assert status == 503
        assert headers["retry-after"] == "1"
        assert headers["x-request-id"] == 'my "id"'
        assert headers["content-type"] == "application/problem+json"
        assert "date" in headers
        problem = msgspec.json.decode(body)
        assert problem["type"] == "urn:lsvcr:problem:overloaded"
        assert problem["request_id"] == 'my "id"'
        assert app.begun == []
        connection.close()

    rendered = against_a_full_server(scenario).render()
    assert b'lsvcr_requests_total{route="/recommend/videos",status="503"} 1.0' in rendered


def test_a_connection_goes_on_behind_a_refusal_however_its_request_came() -> None:
    async def scenario(port: int, shedding: LoadShedding, app: App) -> None:
        connection = await Connection.to(port)
        large = b"x" * 1_000_000
        chunked = (
            b"POST /recommend/videos HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for pieces in (
            [head(body=2) + b"{}"],
            [head(body=2), b"{}"],
            [head(body=2)[:30], head(body=2)[30:], b"{", b"}"],
            [head(body=len(large)), large[:400_000], large[400_000:]],
            [chunked, b"2\r\n{}\r\n", b"0\r\n\r\n"],
        ):
            await connection.send(*pieces)
            assert (await connection.answer())[0] == 503
        await connection.send(head(body=2) + b"{}" + head(body=2) + b"{}")
        assert [(await connection.answer())[0] for _ in range(2)] == [503, 503]
        shedding.end()
        await connection.send(head(body=4) + b"true")
        assert (await connection.answer())[::2] == (200, b"true")
        assert app.begun == [PATH]
        connection.close()

    against_a_full_server(scenario)


def test_a_connection_ends_where_nobody_knows_how_it_goes_on() -> None:
    async def scenario(port: int, shedding: LoadShedding, app: App) -> None:
        for request in (
            head(body=2, Connection="close") + b"{}",
            b"POST /recommend/videos HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}",
            head(body=2, Expect="100-continue"),
        ):
            connection = await Connection.to(port)
            await connection.send(request)
            status, headers, _ = await connection.answer()
            assert (status, headers["connection"]) == (503, "close")
            assert await connection.is_closed()
            connection.close()

    against_a_full_server(scenario)


def test_nothing_is_read_behind_a_head_that_asks_for_another_protocol() -> None:
    async def scenario(port: int, shedding: LoadShedding, app: App) -> None:
        connection = await Connection.to(port)
        asking = head(body=6, Upgrade="h2c", Connection="upgrade")
        await connection.send(asking[:40], asking[40:])
        status, headers, _ = await connection.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert await connection.is_closed()
        connection.close()

    against_a_full_server(scenario)


def test_other_paths_and_methods_are_let_in() -> None:
    async def scenario(port: int, shedding: LoadShedding, app: App) -> None:
        connection = await Connection.to(port)
        for path, method in (("/health/ready", "GET"), ("/events", "POST"), (PATH, "GET")):
            await connection.send(head(path, method=method))
            assert (await connection.answer())[0] == 200
        assert app.begun == ["/health/ready", "/events", PATH]
        connection.close()

    against_a_full_server(scenario)


def test_behind_an_answer_under_way_the_next_request_waits_for_its_turn() -> None:
    async def scenario(port: int, shedding: LoadShedding, app: App) -> None:
        shedding.end()
        connection = await Connection.to(port)
        await connection.send(head(body=3, Waits="yes") + b"one" + head(body=3) + b"two")
        assert shedding.is_full
        app.may_end.set()
        assert [(await connection.answer())[::2] for _ in range(2)] == [
            (200, b"one"),
            (200, b"two"),
        ]
        connection.close()

    against_a_full_server(scenario)


def test_a_caller_that_leaves_gives_its_place_back() -> None:
    async def scenario(port: int, shedding: LoadShedding, app: App) -> None:
        for _ in range(3):  # a refused caller has none
            connection = await Connection.to(port)
            await connection.send(head(body=2) + b"{}")
            connection.close()
        shedding.end()
        connection = await Connection.to(port)
        await connection.send(head(body=2, Waits="yes") + b"{}")
        assert shedding.is_full
        connection.close()
        app.may_end.set()
        while shedding.is_full:
            await asyncio.sleep(0.01)

    against_a_full_server(scenario)


def test_what_a_client_does_not_read_is_not_piled_up() -> None:
    async def scenario(port: int, shedding: LoadShedding, app: App) -> None:
        connection = await Connection.to(port)
        connection.write(100_000 * (head(body=2) + b"{}"))
        while not app.begun:  # its answers wait for the client
            await asyncio.sleep(0.01)
        connection.abort()  # what it has not sent yet would wait for ever

    against_a_full_server(scenario)
