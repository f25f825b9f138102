"""Refuses recommendations before anything is spent on them, where too many are under way already.

What is bounded is the time that a request waits for those before it. A refusal is written as soon
as a request's head is read, without a task or the application, which costs a third of what the
least answer of an application does (docs/decisions/0074).
"""

import time
from collections.abc import Callable, Collection
from typing import Any, cast

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.errors import OverloadedError
from service.ignored_upgrades import ANSWERED, IgnoredUpgradesProtocol
from service.metrics import Metrics
from service.problem_details import MEDIA_TYPE, Problem, describe_problem
from service.request_context import choose_request_id

FIRST_SAMPLE, SAMPLE = 32, 256
"""Answers after which it is measured anew how fast they come: at first after few, as until then
everybody is let in; then after twice as many each time."""
ALWAYS = 64
"""Requests under way that are never too many."""
BUSY = 32
"""Requests under way from which on it is measured: what few take says little of what many would."""


class LoadShedding:
    """How many recommendations are under way, and how many may be. Belongs to one event loop.

    While many are under way the time and the answers in it are counted: they tell how many can be
    answered within `max_wait_s`. Other paths are left to `Admission`.

    Args:
        paths: Whose requests are counted, and refused where too many are under way.
        max_wait_s: How long a request may wait for those before it.
        most: Requests under way that are too many however fast they are answered: what refuses more
            inside of the application has spent most of a request on each by then.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        paths: Collection[str],
        metrics: Metrics,
        max_wait_s: float,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = frozenset(paths)
        self._metrics = metrics
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._most = most
        self._limit: float = most
        self._under_way = 0
        self._busy_from_s = 0.0
        self._busy_s = 0.0
        self._answered = 0
        self._sample = FIRST_SAMPLE
        error = OverloadedError("more requests are under way than can be answered soon")
        self._problem, headers = describe_problem(error, request_id="")
        lines = {**headers, "content-type": MEDIA_TYPE}.items()
        self._headers = "".join(f"{name.lower()}: {value}\r\n" for name, value in lines).encode()

    def counts(self, path: str) -> bool:
        """Whether requests for a path are counted, and refused."""
        return path in self._paths

    @property
    def is_full(self) -> bool:
        """Whether the next request is to be refused."""
        return self._under_way >= self._limit

    def begin(self) -> None:
        """Count a request that was let in."""
        self._under_way += 1
        if self._under_way == BUSY:
            self._busy_from_s = self._clock()

    def end(self) -> None:
        """Count its answer."""
        self._under_way -= 1
        if self._under_way >= BUSY - 1:
            self._count_answer()

    def refuse(self, path: str, request_id: str) -> bytes:
        """Most of the header lines of an answer 503, and its body."""
        self._metrics.record_request(path, self._problem.status, 0.0)
        body = msgspec.json.encode(msgspec.structs.replace(self._problem, request_id=request_id))
        own = b"content-length: %d\r\nx-request-id: %b\r\n\r\n" % (len(body), request_id.encode())
        return self._headers + own + body

    def _count_answer(self) -> None:
        self._answered += 1
        if self._under_way >= BUSY and self._answered < self._sample:
            return
        now_s = self._clock()
        self._busy_s += now_s - self._busy_from_s
        self._busy_from_s = now_s
        if self._answered >= self._sample:
            answers_within = self._max_wait_s * self._answered / max(self._busy_s, 1e-9)
            self._limit = min(max(ALWAYS, answers_within), self._most)
            self._busy_s, self._answered = 0.0, 0
            self._sample = min(2 * self._sample, SAMPLE)


class CountUnderWay:
    """The outermost ASGI middleware: tells `LoadShedding` of every request that was let in."""

    def __init__(self, app: ASGIApp, *, shedding: LoadShedding) -> None:
        self._app = app
        self._shedding = shedding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or not self._shedding.counts(scope["path"]):
            await self._app(scope, receive, send)
            return
        self._shedding.begin()
        try:
            await self._app(scope, receive, send)
        finally:
            self._shedding.end()


class SheddingProtocol(IgnoredUpgradesProtocol):
    """uvicorn's protocol, with requests refused as `app_state["load_shedding"]` wants it.

    Only where that can be written at once: what comes behind a request that is still being
    answered, on the same connection, or from a client that doesn't read its answers is let in.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shedding: LoadShedding = self.app_state["load_shedding"]

    def on_headers_complete(self) -> None:
        """Refuse a request, or have it answered."""
        # Behind one that asks for another protocol its body would be read as the next request.
        if self._shedding.is_full and self._can_write() and not self.parser.should_upgrade():
            path = self.url.decode("latin-1")
            if self._shedding.counts(path) and self.parser.get_method() == b"POST":
                self._refuse(path)
                return
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Tell what is no HTTP: a problem document, as every error is, and the connection ends."""
        request_id = choose_request_id(None)
        problem = Problem("about:blank", "Bad Request", 400, msg, request_id)
        body = msgspec.json.encode(problem)
        lines = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        lines.append(b"content-type: %b\r\n" % MEDIA_TYPE.encode())
        lines.append(b"content-length: %d\r\nconnection: close\r\n" % len(body))
        lines.append(b"x-request-id: %b\r\n\r\n" % request_id.encode())
        self.transport.write(b"".join([STATUS_LINE[400], *lines, body]))
        self.transport.close()

    def _can_write(self) -> bool:
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and not self.flow.write_paused

    def _refuse(self, path: str) -> None:
        request_id = choose_request_id(dict(self.headers).get(b"x-request-id"))
        keeps_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        if self.expect_100_continue:  # the next bytes are a body or not, as the client likes
            keeps_alive = False
        headers = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        if not keeps_alive:
            headers.append(b"connection: close\r\n")
        refusal = self._shedding.refuse(path, request_id)
        self.transport.write_whole(b"".join([STATUS_LINE[503], *headers, refusal]))
        self.cycle = cast("RequestResponseCycle", ANSWERED)
        if not keeps_alive:
            self.transport.close()
        self.on_response_complete()
