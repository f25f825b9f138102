"""How what is watched reaches every bundle of a process, whichever process it was sent to."""

import asyncio
import logging
import time
from collections.abc import Callable

import numpy as np

from service.engine.model_pool import ModelPool
from service.engine.popularity_prior import DayCounts, LiveCounts
from service.errors import HistoryStoreError
from service.history_store import HistoryStore
from service.popularity_counters import DAY_S, DAYS

LATE_DAYS = 3
"""Days that are read again and again, as events come late; all others once a day."""

logger = logging.getLogger(__name__)


class PopularityFollower:
    """Reads the counters of the store and passes them on.

    Args:
        store: Where `history_append.lua` counts.
        pool: The bundles that are to know.
        clock: Seconds since 1970, UTC.
    """

    def __init__(
        self, store: HistoryStore, pool: ModelPool, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._pool = pool
        self._clock = clock
        self._counts = LiveCounts(day=-1)
        self._unread: set[int] = set()

    async def follow(self, every_s: float) -> None:
        """Refresh again and again; what fails is tried again next time."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.refresh()
            except Exception:
                logger.exception("refreshing the popularity prior failed")

    async def refresh(self) -> None:
        """Read what may have changed and pass it on; without the store, what was known before."""
        today = int(self._clock() // DAY_S)
        days = range(today - DAYS, today)
        is_new_day = today != self._counts.day
        if is_new_day:
            self._unread = set(days)
        read = await self._read(self._unread | {*days[-LATE_DAYS:]})
        self._unread -= read.keys()
        known = {day: counts for day, counts in self._counts.by_day.items() if day in days}
        if is_new_day or any(_differ(counts, known.get(day)) for day, counts in read.items()):
            self._counts = LiveCounts(today, known | read)
        await self._pool.update_popularity(self._counts)

    async def _read(self, days: set[int]) -> dict[int, DayCounts]:
        """Read some days, the newest first, until the store fails."""
        read: dict[int, DayCounts] = {}
        for day in sorted(days, reverse=True):
            try:
                read[day] = await self._store.fetch_popularity(day)
            except HistoryStoreError:
                break  # counted and logged where it failed
        return read


def _differ(new: DayCounts, old: DayCounts | None) -> bool:
    if old is None:
        return len(new[0]) > 0
    return not all(np.array_equal(*pair) for pair in zip(new, old, strict=True))
