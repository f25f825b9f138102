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
    loop = asyncio.get_running_loop()
    alarm = loop.call_later(deadline_s - time.monotonic(), _give_up, future)
    try:
        return await future
    finally:
        alarm.cancel()


def _give_up(future: asyncio.Future[ResultT]) -> None:
    if not future.done():
        future.set_exception(DeadlineExceededError("the answer was not ready in time"))


class within_deadline:  # noqa: N801 # it reads as the verb it is; a generator costs thrice as much
    """Cancel the block when the time is up.

    Args:
        deadline_s: `time.monotonic()` value.

    Raises:
        DeadlineExceededError: At once, or when the time is up.
    """

    __slots__ = ("_deadline_s", "_timeout")

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s

    async def __aenter__(self) -> None:
        """Set the alarm."""
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceededError("the time was up before the work began")
        self._timeout = asyncio.timeout(remaining_s)
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say so, if it went off."""
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            message = "the time was up before the answer was there"
            raise DeadlineExceededError(message) from late
