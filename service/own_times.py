"""Work that a process does again and again, beside answers.

Processes that began together would do it together: on all cores at once, and in the store's queue
one behind the other (docs/decisions/0090). So each begins at a time of its own.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


async def repeat(do: Callable[[], Awaitable[None]], *, every_s: float, name: str) -> None:
    """Do something until cancelled, for the first time within `every_s`."""
    await asyncio.sleep(every_s * random.random())
    while True:
        await attempt(do, name=name)
        await asyncio.sleep(every_s)


async def attempt(do: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Do something once; that it failed is logged."""
    try:
        await do()
    except Exception:
        logger.exception("%s failed", name)
