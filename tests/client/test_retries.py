"""When the client tries again, how long it waits, and when it gives up."""

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Reply, scripted_server

from lsvcr_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    NoAnswerError,
    ProblemError,
    Retries,
)
from lsvcr_client.exchange import Exchange
from lsvcr_client.requests import CheckLive, EraseUser, Request, RollBackModel

LIVE = Reply(200, b'{"status": "live", "added_by_a_newer_service": [1]}')
QUICK = Retries(first_wait_s=0.01, max_wait_s=0.02)
Send = Callable[..., Any]


def send_sync(url: str, request: Request[Any], **options: Any) -> Any:
    with Client(url, **{"retries": QUICK, "timeout_ms": 20_000, **options}) as client:
        return client.send(request)


def send_async(url: str, request: Request[Any], **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(
            url, **{"retries": QUICK, "timeout_ms": 20_000, **options}
        ) as client:
            return await client.send(request)

    return asyncio.run(run())


@pytest.fixture(params=[send_sync, send_async], ids=["sync", "async"])
def send(request: pytest.FixtureRequest) -> Send:
    chosen: Send = request.param
    return chosen


def problem(status: int, **headers: str) -> Reply:
    fields = {"type": "t", "title": "Busy", "status": status, "detail": "d", "request_id": "r-1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(fields).encode(), named)


def test_a_busy_service_is_asked_again_when_it_said(send: Send) -> None:
    with scripted_server([problem(503, Retry_After="1"), problem(503), LIVE]) as (url, received):
        assert send(url, CheckLive(), key="k-1").status == "live"
    first, second, third = received
    assert second.at_s - first.at_s >= 1
    assert {one.headers["authorization"] for one in received} == {"Bearer k-1"}
    left_ms = [int(one.headers["x-deadline-ms"]) for one in received]
    assert 20_000 >= left_ms[0] > left_ms[1] + 999 and left_ms[1] > left_ms[2]
    assert third.path == "/health/live"


def test_lost_connections_and_proxies_in_trouble_are_tried_again(send: Send) -> None:
    replies = [Reply(None), Reply(502, b"<html>"), problem(504), LIVE]
    with scripted_server(replies) as (url, received):
        assert send(url, CheckLive()).status == "live"
    assert len(received) == 4


def test_it_gives_up_with_the_services_own_words(send: Send) -> None:
    with scripted_server([problem(503)]) as (url, received):
        with pytest.raises(ProblemError, match="503 Busy: d") as raised:
            send(url, CheckLive(), retries=Retries(attempts=3, first_wait_s=0.01))
        assert raised.value.problem.request_id == "r-1"
    assert len(received) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_what_would_fail_again_is_not_tried_again(send: Send, status: int) -> None:
    with scripted_server([problem(status)]) as (url, received):
        with pytest.raises(ProblemError) as raised:
            send(url, CheckLive())
        assert raised.value.status == status
    assert len(received) == 1


def test_it_does_not_wait_for_what_would_come_too_late(send: Send) -> None:
    with (
        scripted_server([problem(503, Retry_After="60")]) as (url, received),
        pytest.raises(ProblemError, match="503"),
    ):
        send(url, CheckLive(), timeout_ms=20_000)
    assert len(received) == 1


def test_the_deadline_ends_an_attempt_that_takes_too_long(send: Send) -> None:
    with (
        scripted_server([Reply(200, after_s=20)]) as (url, received),
        pytest.raises(DeadlineExceededError),
    ):
        send(url, CheckLive(), timeout_ms=150)
    assert len(received) == 1


def test_what_must_not_happen_twice_is_not_sent_twice(send: Send) -> None:
    with scripted_server([Reply(None)]) as (url, received), pytest.raises(NoAnswerError):
        send(url, RollBackModel())
        assert len(received) == 1
        with pytest.raises(NoAnswerError):
            send(url, CheckLive())
        assert len(received) == 1 + QUICK.attempts


def test_nobody_there_is_told(send: Send) -> None:
    with socket.socket() as bound:  # bound, but not listening
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(NoAnswerError, match="GET /health/live: ConnectError"):
            send(f"http://127.0.0.1:{bound.getsockname()[1]}", CheckLive())


def test_an_answer_of_somebody_else_is_told(send: Send) -> None:
    with (
        scripted_server([Reply(200, b"<html>welcome</html>")]) as (url, _),
        pytest.raises(NoAnswerError, match="GET /health/live"),
    ):
        send(url, CheckLive())


def test_ids_are_percent_encoded_and_empty_answers_read(send: Send) -> None:
    with scripted_server([Reply(204, b"")]) as (url, received):
        assert send(url, EraseUser("a/b ü?")) is None
    assert (received[0].method, received[0].path) == ("DELETE", "/users/a%2Fb%20%C3%BC%3F")


@given(
    attempt=st.integers(1, 5),
    first_s=st.floats(0.001, 1),
    most_s=st.floats(0.001, 3),
    asked=st.sampled_from([None, "0", "2", "Wed, 21 Oct 2026 07:28:00 GMT"]),
)
def test_waits_are_random_within_their_bounds(
    attempt: int, first_s: float, most_s: float, asked: str | None
) -> None:
    retries = Retries(attempts=10, first_wait_s=first_s, max_wait_s=most_s)
    exchange = Exchange(CheckLive(), retries=retries, timeout_s=1_000, key=None)
    for _ in range(attempt):
        exchange.begin_attempt()
    headers = {} if asked is None else {"retry-after": asked}
    asked_s = 2.0 if asked == "2" else 0.0
    most_jitter_s = min(most_s, first_s * 2 ** (attempt - 1))
    waits = {exchange.wait_after_problem(503, headers, b"") for _ in range(20)}
    assert all(asked_s <= wait_s <= asked_s + most_jitter_s for wait_s in waits)
    assert len(waits) > 1
