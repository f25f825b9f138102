"""Joins waiting queries into batches for the one thread that computes answers.

Nothing waits for a batch to fill: while one is computed, the next one gathers.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from service.errors import DeadlineExceededError, NotReadyError, OverloadedError

QueryT = TypeVar("QueryT")
AnswerT = TypeVar("AnswerT")

logger = logging.getLogger(__name__)

NEWEST_WEIGHT = 0.2
"""Of the last batch in the moving average of what a query costs."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[AnswerT]):
    """An answer and how long its query waited for its batch to start."""

    answer: AnswerT
    queue_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[QueryT, AnswerT]):
    query: QueryT
    deadline_s: float
    submitted_s: float
    future: asyncio.Future[Outcome[AnswerT]]


class Batcher(Generic[QueryT, AnswerT]):
    """A bounded queue in front of one thread.

    Args:
        compute: Answers a batch; what is wrong with one query may be its answer, as an exception.
            If it raises instead, its queries are computed again one by one.
        thread: An executor with exactly one thread.
        max_queue: Queries that may wait; the next one is refused.
        max_batch: Queries computed together, at most.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[QueryT]], Sequence[AnswerT | Exception]],
        thread: Executor,
        *,
        max_queue: int,
        max_batch: int,
    ) -> None:
        self._compute = compute
        self._thread = thread
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._waiting: deque[_Job[QueryT, AnswerT]] = deque()
        self._lock = threading.Lock()
        self._is_draining = False
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
            NotReadyError: If the thread has been shut down.
        """
        now_s = time.monotonic()
        if now_s >= deadline_s:
            raise DeadlineExceededError("the deadline had passed before the request was queued")
        future: asyncio.Future[Outcome[AnswerT]] = asyncio.get_running_loop().create_future()
        with self._lock:
            if len(self._waiting) >= self._max_queue:
                raise OverloadedError(f"{self._max_queue} requests are waiting already")
            if len(self._waiting) * self._query_s > deadline_s - now_s:
                raise OverloadedError("more requests are waiting than can be answered in time")
            self._wake()
            self._waiting.append(_Job(query, deadline_s, now_s, future))
        try:
            wait_s = None if deadline_s == float("inf") else deadline_s - now_s
            async with asyncio.timeout(wait_s):
                return await future
        except TimeoutError as error:
            raise DeadlineExceededError("the answer was not ready in time") from error

    def _wake(self) -> None:
        if self._is_draining:
            return
        try:
            self._thread.submit(self._drain)  # waits for the lock that the caller holds
        except RuntimeError as error:
            raise NotReadyError("the model is being closed") from error
        self._is_draining = True

    def _drain(self) -> None:
        """Compute batches until nothing waits; runs in the one thread."""
        while True:
            with self._lock:
                taken = [
                    self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))
                ]
                if not taken:
                    self._is_draining = False
                    return
            started_s = time.monotonic()
            # A caller that gave up, or whose deadline passed, has cancelled its future.
            jobs = [job for job in taken if not job.future.done() and started_s < job.deadline_s]
            if jobs:
                answers = self._answer([job.query for job in jobs])
                query_s = (time.monotonic() - started_s) / len(jobs)
                self._query_s += NEWEST_WEIGHT * (query_s - self._query_s)
                self._deliver(jobs, answers, started_s)

    def _answer(self, queries: Sequence[QueryT]) -> Sequence[AnswerT | Exception]:
        try:
            return self._compute(queries)
        except Exception as error:  # one query's defect must not become its neighbours'
            if len(queries) == 1:
                logger.exception("a query failed")
                return [error]
            logger.warning("a batch of %d failed: computing one by one", len(queries))
            return [self._answer([query])[0] for query in queries]

    def _deliver(
        self,
        jobs: Sequence[_Job[QueryT, AnswerT]],
        answers: Sequence[AnswerT | Exception],
        started_s: float,
    ) -> None:
        """Hand a batch's answers to their event loops, each woken once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        for job, answer in zip(jobs, answers, strict=True):
            queue_ms = (started_s - job.submitted_s) * 1000
            settle = by_loop.setdefault(job.future.get_loop(), [])
            settle.append(partial(_settle, job, answer, queue_ms))
        for loop, calls in by_loop.items():
            try:
                loop.call_soon_threadsafe(_call_all, calls)
            except RuntimeError:
                logger.warning("an event loop closed while %d answers were due", len(calls))


def _settle(job: _Job[QueryT, AnswerT], answer: AnswerT | Exception, queue_ms: float) -> None:
    if job.future.done():
        return
    if isinstance(answer, Exception):
        job.future.set_exception(answer)
    else:
        job.future.set_result(Outcome(answer, queue_ms))


def _call_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
