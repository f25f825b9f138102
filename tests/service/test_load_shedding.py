"""What is refused before anything is spent on it, and what never is."""

import asyncio
from typing import Any

import msgspec
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.load_shedding import ALWAYS, BUSY, FIRST_SAMPLE, SAMPLE, LoadShedding
from service.metrics import Metrics

PATH = "/recommend/videos"
REQUEST_SECONDS = 0.125


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


class App:
    """Stands where all the rest would, and answers when it is told to."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        await self.may_end.wait()


def request(path: str = PATH, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Scope:
    return {"type": "http", "method": "POST", "path": path, "headers": [*headers]}


async def nothing(*_: Any) -> Any:
    return None


async def warmed(
    max_wait_s: float, answers: int = SAMPLE
) -> tuple[LoadShedding, App, Clock, Metrics]:
    """After some requests, of `REQUEST_SECONDS` each, beside some that were under way."""
    app, clock, metrics = App(), Clock(), Metrics(max_queue=1)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if "seconds" in scope:
            clock.now_s += scope["seconds"]
        else:
            await app(scope, receive, send)

    shedding = LoadShedding(
        serve, paths=[PATH], metrics=metrics, max_wait_s=max_wait_s, clock=clock
    )
    beside = await begin(shedding, BUSY - 1)
    for _ in range(answers):
        await shedding({**request(), "seconds": REQUEST_SECONDS}, nothing, nothing)
    app.may_end.set()
    await asyncio.gather(*beside)
    app.may_end.clear()
    app.begun = 0
    return shedding, app, clock, metrics


async def begin(shedding: LoadShedding, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(shedding(request(), nothing, nothing)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize("answers", [FIRST_SAMPLE, SAMPLE])
def test_as_many_are_let_in_as_can_be_answered_in_time(answers: int) -> None:
    async def main() -> None:
        shedding, app, _, metrics = await warmed(100 * REQUEST_SECONDS, answers)
        tasks = await begin(shedding, 150)
        assert app.begun == 100
        assert sum(task.done() for task in tasks) == 50
        metrics.settle()
        assert b'lsvcr_requests_total{route="/recommend/videos",status="503"} 50.0' in (
            metrics.render()
        )
        app.may_end.set()
        await asyncio.gather(*tasks)
        await begin(shedding, 1)  # there is room again
        assert app.begun == 101

    asyncio.run(main())


def test_a_refusal_is_a_problem_with_the_callers_id() -> None:
    async def main() -> None:
        shedding, app, _, _ = await warmed(max_wait_s=0)
        tasks = await begin(shedding, ALWAYS)
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await shedding(request(headers=((b"x-request-id", b'my "id"'),)), nothing, send)
        start, body = sent
        headers = dict(start["headers"])
        assert start["status"] == 503
        assert headers[b"retry-after"] == b"1"
        assert headers[b"x-request-id"] == b'my "id"'
        assert headers[b"content-type"] == b"application/problem+json"
        assert int(headers[b"content-length"]) == len(body["body"])
        problem = msgspec.json.decode(body["body"])
        assert problem["type"] == "urn:lsvcr:problem:overloaded"
        assert problem["request_id"] == 'my "id"'
        app.may_end.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_few_requests_and_other_paths_are_never_refused() -> None:
    async def main() -> None:
        shedding, app, _, _ = await warmed(max_wait_s=0)
        tasks = await begin(shedding, ALWAYS)
        tasks += [
            asyncio.create_task(shedding(request(path), nothing, nothing))
            for path in ("/health/ready", "/events", "/admin/models")
        ]
        await asyncio.sleep(0)
        assert app.begun == ALWAYS + 3
        app.may_end.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_what_a_few_requests_take_is_no_measure() -> None:
    async def main() -> None:
        shedding, app, _, _ = await warmed(max_wait_s=100 * REQUEST_SECONDS)
        for _ in range(SAMPLE):
            await shedding({**request(), "seconds": 1000.0}, nothing, nothing)
        tasks = await begin(shedding, 150)
        assert app.begun == 100
        app.may_end.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_all_are_let_in_until_it_is_known_how_fast_they_are() -> None:
    async def main() -> None:
        app = App()
        shedding = LoadShedding(
            app, paths=[PATH], metrics=Metrics(max_queue=1), max_wait_s=0, clock=Clock()
        )
        tasks = await begin(shedding, 10 * ALWAYS)
        assert app.begun == 10 * ALWAYS
        app.may_end.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
