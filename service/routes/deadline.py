"""Ends what takes longer than its caller waits."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from service.errors import DeadlineExceededError


@contextlib.asynccontextmanager
async def within_deadline(deadline_s: float) -> AsyncIterator[None]:
    """Cancel the block when the time is up.

    Args:
        deadline_s: `time.monotonic()` value.

    Raises:
        DeadlineExceededError: At once, or when the time is up.
    """
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:
        raise DeadlineExceededError("the time was up before the work began")
    try:
        async with asyncio.timeout(remaining_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceededError("the time was up before the answer was there") from error
