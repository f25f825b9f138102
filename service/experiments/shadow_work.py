"""Work that is done after an answer and for nobody's sake: bounded, and counted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from lsvcr.errors import LsvcrError

MAX_IN_FLIGHT = 16

logger = logging.getLogger(__name__)


class ShadowWork:
    """Runs shadow arms in the background; while too many run, further ones are dropped.

    Args:
        on_outcome: Called with `done`, `failed` or `dropped` for each.
    """

    def __init__(self, on_outcome: Callable[[str], None] = lambda outcome: None) -> None:
        self._on_outcome = on_outcome
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin some work once the running one has answered."""
        if len(self._tasks) >= MAX_IN_FLIGHT:
            self._on_outcome("dropped")
            return
        task = asyncio.ensure_future(self._do(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for what has begun."""
        await asyncio.gather(*self._tasks)

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except LsvcrError as error:
            self._on_outcome("failed")
            logger.debug("a shadow arm gave no answer: %s", error)
        except Exception:
            self._on_outcome("failed")
            logger.exception("a shadow arm failed")
        else:
            self._on_outcome("done")
