"""How what is watched reaches every bundle of a process, whichever process it was sent to."""

import asyncio
import logging
import time
from collections.abc import Callable

import numpy as np

from lsvcr.popularity import HOURS_A_DAY
from service.engine.model_pool import ModelPool
from service.engine.popularity_prior import CountsByHash, LiveCounts
from service.errors import HistoryStoreError
from service.history_store import HistoryStore
from service.popularity_counters import HOUR_S, HOURS

LATE_HOURS = 3 * HOURS_A_DAY
"""Hours that are read again and again, as events come late; all others once a day."""

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
        self._counts = LiveCounts(hour=-1)
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
        now = int(self._clock() // HOUR_S)
        hours = range(now - HOURS, now)
        if now // HOURS_A_DAY != self._counts.hour // HOURS_A_DAY:
            self._unread = set(hours)
        read = await self._read(self._unread | {*hours[-LATE_HOURS:]})
        self._unread -= read.keys()
        known = {hour: counts for hour, counts in self._counts.by_hour.items() if hour in hours}
        is_new_hour = now != self._counts.hour
        if is_new_hour or any(_differ(counts, known.get(hour)) for hour, counts in read.items()):
            self._counts = LiveCounts(now, known | read)
        await self._pool.update_popularity(self._counts)

    async def _read(self, hours: set[int]) -> dict[int, CountsByHash]:
        """Read some hours, the newest first, until the store fails."""
        read: dict[int, CountsByHash] = {}
        newest_first = sorted(hours, reverse=True)
        for start in range(0, len(newest_first), LATE_HOURS):
            some = newest_first[start : start + LATE_HOURS]
            try:
                read |= zip(some, await self._store.fetch_popularity(some), strict=True)
            except HistoryStoreError:
                break  # counted and logged where it failed
        return read


def _differ(new: CountsByHash, old: CountsByHash | None) -> bool:
    if old is None:
        return len(new[0]) > 0
    return not all(np.array_equal(*pair) for pair in zip(new, old, strict=True))
