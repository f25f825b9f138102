"""Refuses recommendations before anything is spent on them, where too many are under way already.

What is bounded is the time that a request waits for those before it. A refusal here costs 9 us
beside what the server takes for any answer (docs/decisions/0032).
"""

import math
import time
from collections.abc import Callable, Collection

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import OverloadedError
from service.metrics import Metrics
from service.problem_details import MEDIA_TYPE, describe_problem
from service.request_context import choose_request_id

FIRST_SAMPLE, SAMPLE = 32, 256
"""Answers after which it is measured anew how fast they come: at first after few, as until then
everybody is let in; then after twice as many each time."""
ALWAYS = 64
"""Requests under way that are never too many."""
BUSY = 32
"""Requests under way from which on it is measured: what few take says little of what many would."""


class LoadShedding:
    """The outermost ASGI middleware.

    While many requests are under way the time and the answers in it are counted: they tell how
    many can be answered within `max_wait_s`. Other paths are left to `Admission`.

    Args:
        paths: Whose requests are counted, and refused where too many are under way.
        max_wait_s: How long a request may wait for those before it.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        paths: Collection[str],
        metrics: Metrics,
        max_wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._metrics = metrics
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._limit = math.inf
        self._under_way = 0
        self._busy_from_s = 0.0
        self._busy_s = 0.0
        self._answered = 0
        self._sample = FIRST_SAMPLE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it at once."""
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._limit:
            await self._refuse(scope, send)
            return
        self._under_way += 1
        if self._under_way == BUSY:
            self._busy_from_s = self._clock()
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
            if self._under_way >= BUSY - 1:
                self._count_answer()

    def _count_answer(self) -> None:
        self._answered += 1
        if self._under_way >= BUSY and self._answered < self._sample:
            return
        now_s = self._clock()
        self._busy_s += now_s - self._busy_from_s
        self._busy_from_s = now_s
        if self._answered >= self._sample:
            answers_within = self._max_wait_s * self._answered / max(self._busy_s, 1e-9)
            self._limit = max(ALWAYS, answers_within)
            self._busy_s, self._answered = 0.0, 0
            self._sample = min(2 * self._sample, SAMPLE)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        request_id = choose_request_id(dict(scope["headers"]).get(b"x-request-id"))
        error = OverloadedError("more requests are under way than can be answered soon")
        problem, headers = describe_problem(error, request_id)
        body = msgspec.json.encode(problem)
        described = {
            **headers,
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "x-request-id": request_id,
        }
        await send(
            {
                "type": "http.response.start",
                "status": problem.status,
                "headers": [
                    (name.lower().encode(), value.encode()) for name, value in described.items()
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})
        self._metrics.record_request(scope["path"], problem.status, 0.0)
