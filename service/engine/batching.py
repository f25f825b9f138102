"""Joins waiting queries into batches, and drops those that nobody waits for any more.

Nothing waits for a batch to fill: while one is computed, the next one gathers.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from lsvcr.errors import LsvcrError
from service.deadline import before
from service.errors import DeadlineExceededError, NotReadyError, OverloadedError

QueryT = TypeVar("QueryT")
AnswerT = TypeVar("AnswerT")

logger = logging.getLogger(__name__)

SENT_TOGETHER = 4
"""Answers that are sent in one turn of the event loop: each takes a while to write, and requests
that have just come wait."""

NEWEST_WEIGHT = 0.2
"""Of the last batch in the moving average of what a query costs."""


class Outcome(msgspec.Struct, Generic[AnswerT], frozen=True, eq=False):
    """An answer and how long its query waited for its batch to start."""

    answer: AnswerT
    queue_ms: float


class _Job(msgspec.Struct, Generic[QueryT, AnswerT], frozen=True, eq=False):
    query: QueryT
    deadline_s: float
    submitted_s: float
    size: int
    future: asyncio.Future[Outcome[AnswerT]]


class Batcher(Generic[QueryT, AnswerT]):
    """A bounded queue in front of a computation; belongs to one event loop.

    Args:
        compute: Answers a batch; what is wrong with one query may be its answer, as an exception.
            If it fails instead, its queries are computed again one by one.
        max_queue: Queries that may wait; the next one is refused.
        max_batch: Queries computed together, at most.
        in_flight: Batches computed at a time: more than one only where `compute` itself waits.
        sent_together: Answers that are handed out in one turn of the event loop.
        least_beside: How large a batch is at least, by its queries' sizes, which begins beside one
            that is under way: smaller ones do better to wait for its end, as a batch costs much
            whatever is in it.
        few: Beside queries of this size in all, or less, any batch begins: where little is asked
            there is nothing to gain by waiting.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[QueryT]], Awaitable[Sequence[AnswerT | Exception]]],
        *,
        max_queue: int,
        max_batch: int,
        in_flight: int = 1,
        sent_together: int = SENT_TOGETHER,
        least_beside: int = 1,
        few: int = 0,
    ) -> None:
        self._compute = compute
        self._loop = asyncio.get_running_loop()
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._in_flight = in_flight
        self._sent_together = sent_together
        self._least_beside = least_beside
        self._few = few
        self._computed = 0  # sizes of all queries that are being computed
        self._waiting: deque[_Job[QueryT, AnswerT]] = deque()
        self._drains: set[asyncio.Task[None]] = set()
        self._draining = 0  # those that will look for waiting queries once more
        self._is_closed = False
        self._query_s = 0.0  # what a query of a batch costs, lately

    @property
    def waiting(self) -> int:
        """Queries in the queue."""
        return len(self._waiting)

    async def submit(self, query: QueryT, deadline_s: float) -> Outcome[AnswerT]:
        """Wait for a query's answer, until `deadline_s` (`time.monotonic()`) at most.

        Raises:
            OverloadedError: At once, if the queue is full or too long for the deadline: what
                would be late is not begun.
            DeadlineExceededError: If the answer isn't there in time.
            NotReadyError: If the batcher has been closed.
        """
        job = self._queue(query, deadline_s, size=1)
        try:
            return await before(deadline_s, job.future)
        except BaseException:  # a caller that left, or whose time is up, frees its place
            with contextlib.suppress(ValueError):  # it is being computed
                self._waiting.remove(job)
            raise

    def put(
        self, query: QueryT, deadline_s: float, *, size: int = 1
    ) -> asyncio.Future[Outcome[AnswerT]]:
        """As `submit`, but without a timer: what is late fails when its turn has come."""
        return self._queue(query, deadline_s, size).future

    async def close(self) -> None:
        """Refuse what comes from now on, and finish what is waiting."""
        self._is_closed = True
        await asyncio.gather(*self._drains)

    def _queue(self, query: QueryT, deadline_s: float, size: int) -> _Job[QueryT, AnswerT]:
        now_s = time.monotonic()
        self._refuse_hopeless(deadline_s - now_s)
        future: asyncio.Future[Outcome[AnswerT]] = self._loop.create_future()
        job: _Job[QueryT, AnswerT] = _Job(query, deadline_s, now_s, size, future)
        self._waiting.append(job)
        if self._draining < self._in_flight and self._are_enough(beside=self._draining):
            self._draining += 1
            drain = self._loop.create_task(self._drain())
            self._drains.add(drain)
            drain.add_done_callback(self._drains.discard)
        return job

    def _refuse_hopeless(self, remaining_s: float) -> None:
        if self._is_closed:
            raise NotReadyError("the model is being closed")
        if remaining_s <= 0:
            raise DeadlineExceededError("the deadline had passed before the request was queued")
        if len(self._waiting) >= self._max_queue:
            raise OverloadedError(f"{self._max_queue} requests are waiting already")
        if len(self._waiting) * self._query_s > remaining_s:
            raise OverloadedError("more requests are waiting than can be answered in time")

    def _are_enough(self, beside: int) -> bool:
        """Whether what waits is worth a batch beside so many that are under way."""
        if not beside or 0 < self._computed <= self._few:
            return bool(self._waiting)
        return sum(job.size for job in self._waiting) >= self._least_beside

    async def _drain(self) -> None:
        """Compute batches until too little waits."""
        while self._are_enough(beside=self._draining - 1):
            count = min(self._max_batch, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(count)]
            started_s = time.monotonic()
            for job in taken:
                if started_s >= job.deadline_s:
                    late = DeadlineExceededError("the time was up before the turn of the request")
                    _settle(job, late, (started_s - job.submitted_s) * 1000)
            # A caller that gave up has cancelled its future.
            jobs = [job for job in taken if not job.future.done()]
            if jobs:
                size = sum(job.size for job in jobs)
                self._computed += size
                answers = await self._answer([job.query for job in jobs])
                self._computed -= size
                ended_s = time.monotonic()
                query_s = (ended_s - started_s) / len(jobs)
                self._query_s += NEWEST_WEIGHT * (query_s - self._query_s)
                for number, (job, answer) in enumerate(zip(jobs, answers, strict=True), start=1):
                    if ended_s >= job.deadline_s:
                        answer = DeadlineExceededError("the answer was ready too late")
                    _settle(job, answer, (started_s - job.submitted_s) * 1000)
                    if number % self._sent_together == 0:
                        await asyncio.sleep(0)
            await asyncio.sleep(0)  # what has arrived meanwhile joins the next batch
        self._draining -= 1

    async def _answer(self, queries: Sequence[QueryT]) -> Sequence[AnswerT | Exception]:
        try:
            return await self._compute(queries)
        except LsvcrError as error:  # raised on purpose: it holds for all of them
            return [error] * len(queries)
        except Exception as error:  # one query's defect must not become its neighbours'
            if len(queries) == 1:
                logger.exception("a query failed")
                return [error]
            logger.warning("a batch of %d failed: computing one by one", len(queries))
            return [(await self._answer([query]))[0] for query in queries]


def _settle(job: _Job[QueryT, AnswerT], answer: AnswerT | Exception, queue_ms: float) -> None:
    if job.future.done():
        return
    if isinstance(answer, Exception):
        job.future.set_exception(answer)
    else:
        job.future.set_result(Outcome(answer, queue_ms))
