"""Ends what takes longer than its caller waits."""

import asyncio
import math
import time
from types import TracebackType
from typing import TypeVar

from service.errors import DeadlineExceededError

ResultT = TypeVar("ResultT")


async def before(deadline_s: float, future: asyncio.Future[ResultT]) -> ResultT:
    """Await a future that nobody else waits for, until its time is up.

    It takes a timer alone; `within_deadline` around it would cost four times as much.

    Args:
        deadline_s: `time.monotonic()` value.
        future: Fails when the time is up, and is cancelled with its caller.

    Raises:
        DeadlineExceededError: When the time is up.
    """
    if deadline_s == math.inf:
        return await future
    alarm = future.get_loop().call_later(deadline_s - time.monotonic(), _give_up, future)
    try:
        return await future
    finally:
        alarm.cancel()


def _give_up(future: asyncio.Future[ResultT]) -> None:
    if not future.done():
        future.set_exception(DeadlineExceededError("the answer was not ready in time"))


class within_deadline:  # noqa: N801 # it reads as the verb it is
    """Cancel the block when the time is up, as `asyncio.timeout` does, at half of its cost.

    Args:
        deadline_s: `time.monotonic()` value.

    Raises:
        DeadlineExceededError: At once, or when the time is up.
    """

    __slots__ = ("_alarm", "_cancelled_before", "_deadline_s", "_has_rung", "_task")

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s

    def __enter__(self) -> None:
        """Set the alarm."""
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceededError("the time was up before the work began")
        loop = asyncio.get_running_loop()  # once: until Python 3.12 each time is a system call
        task = asyncio.current_task(loop)
        assert task is not None
        self._task, self._cancelled_before = task, task.cancelling()
        self._has_rung = False
        self._alarm = loop.call_later(remaining_s, self._ring)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say so, if it went off and nobody else has cancelled the task."""
        self._alarm.cancel()
        if self._has_rung:
            is_ours = self._task.uncancel() <= self._cancelled_before
            if is_ours and kind is asyncio.CancelledError:
                message = "the time was up before the answer was there"
                raise DeadlineExceededError(message) from error

    def _ring(self) -> None:
        self._has_rung = True
        self._task.cancel()
