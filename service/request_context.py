"""What surrounds every request: its id, its deadline, its log line and metrics, its last resort."""

import logging
import re
import time
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.current_request import current_request
from service.deadline import within_deadline
from service.errors import InvalidRequestError
from service.metrics import Metrics
from service.problem_details import problem_response
from service.random_ids import new_request_id

CLIENT_LEFT = 499
"""Counted where a client went before its request was there: no status that HTTP has."""

_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,128}")
_DEADLINE = re.compile(rb"[0-9]{1,18}")
_REPLACED = "\ufffd"
"""What the server puts in a path for bytes that aren't UTF-8: an id that nobody meant."""

logger = structlog.get_logger(__name__)
_plain_logger = logging.getLogger(__name__)


class RequestContext:
    """The outermost ASGI middleware.

    Sets in the request's state: `headers` by name, as bytes; `request_id`; `started_s` and
    `deadline_s`, `time.monotonic()` values. Whatever is raised below becomes a problem document.

    Args:
        deadline_ms: Most a request may take; the header X-Deadline-Ms may shorten it.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, deadline_ms: int) -> None:
        self._app = app
        self._metrics = metrics
        self._deadline_ms = deadline_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.monotonic()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = choose_request_id(headers.get(b"x-request-id"))
        id_header = (b"x-request-id", request_id.encode())
        scope.setdefault("state", {}).update(
            headers=headers, request_id=request_id, started_s=started_s
        )
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), id_header]
            await send(message)

        before = current_request.set((request_id, headers))
        try:
            allowed_s = _read_deadline_ms(headers, self._deadline_ms) / 1000
            scope["state"]["deadline_s"] = started_s + allowed_s
            if _REPLACED in scope["path"]:
                _refuse_other_bytes(scope.get("raw_path", b""))
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or CLIENT_LEFT  # nobody is there to be told
        except Exception as error:
            if status:  # half an answer is out: only cutting the connection tells the client
                raise
            await problem_response(error, request_id)(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.monotonic() - started_s)
            current_request.reset(before)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        self._metrics.record_request(route, status, seconds)
        # Refusals under load are for the metrics to tell: a line each would add to the load.
        level = logging.WARNING if status == 500 else logging.DEBUG
        if _plain_logger.isEnabledFor(level):  # a line that isn't written takes 2 us to lay out
            told = {"method": scope["method"], "route": route, "status": status}
            logger.log(level, "request", **told, seconds=round(seconds, 6))


async def refuse_late(request: Request) -> None:
    """A dependency of documented routes: what nobody waits for any more is not begun.

    Raises:
        DeadlineExceededError: If the request's time is up.
    """
    with within_deadline(request.state.deadline_s):
        pass


def choose_request_id(given: bytes | None) -> str:
    """The one that a header brings, if it can be taken over, or a new one."""
    return given.decode() if given and _REQUEST_ID.fullmatch(given) else new_request_id()


def _refuse_other_bytes(raw_path: bytes) -> None:
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError([(("path",), "should be UTF-8")]) from error


def _read_deadline_ms(headers: Mapping[bytes, bytes], most_ms: int) -> int:
    given = headers.get(b"x-deadline-ms")
    if given is None:
        return most_ms
    if not _DEADLINE.fullmatch(given):
        raise InvalidRequestError([(("header", "X-Deadline-Ms"), "should be a whole number")])
    return min(most_ms, int(given))
