"""Ends what takes longer than its caller waits."""

import asyncio
import time
from types import TracebackType

from service.errors import DeadlineExceededError


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
