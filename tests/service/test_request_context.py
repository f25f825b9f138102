"""What becomes of a request that nobody waits for any more."""

import asyncio
import logging

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from service.metrics import Metrics
from service.request_context import RequestContext


def test_a_client_that_left_is_no_failure_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    metrics, sent = Metrics(max_queue=1), []

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        raise ClientDisconnect

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    context = RequestContext(leave, metrics=metrics, deadline_ms=1000)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    with caplog.at_level(logging.INFO):
        asyncio.run(context(scope, receive, send))
    metrics.settle()
    assert b'lsvcr_requests_total{route="unmatched",status="499"} 1.0' in metrics.render()
    assert (sent, caplog.records) == ([], [])
