"""How what is watched reaches every bundle of a process, whichever process it was sent to."""

import time
from collections.abc import Callable, Mapping

import numpy as np

from lsvcr.popularity import HOURS_A_DAY
from service.engine.model_pool import ModelPool
from service.engine.popularity_prior import CountsByHash, LiveCounts
from service.errors import HistoryStoreError
from service.history_store import HistoryStore
from service.own_times import repeat
from service.popularity_counters import HOUR_S, HOURS

LATE_HOURS = 3 * HOURS_A_DAY
"""Hours that are looked at again and again, as events come late; all others once a day."""
HOURS_AT_ONCE = HOURS_A_DAY
"""Between two such readings the loop does other things."""


class PopularityFollower:
    """Reads the counters of the store and passes them on.

    An hour's total tells whether it has changed. One in which an older service has counted has none
    or too low a one, and is read each time.

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
        """Refresh again and again; what fails is tried again next time.

        Processes that began together do so one after another: where an hour has ended each has as
        much to compute as for a thousand requests.
        """
        await repeat(self.refresh, every_s=every_s, name="refreshing the popularity prior")

    async def refresh(self) -> None:
        """Read what has changed and pass it on; without the store, what was known before."""
        now = int(self._clock() // HOUR_S)
        hours = range(now - HOURS, now)
        is_new_hour = now != self._counts.hour
        if now // HOURS_A_DAY != self._counts.hour // HOURS_A_DAY:
            self._unread = set(hours)
        known = {hour: counts for hour, counts in self._counts.by_hour.items() if hour in hours}
        changed = await self._read(self._unread | {*hours[-LATE_HOURS:]}, known)
        if is_new_hour or changed:
            self._counts = LiveCounts(now, known | changed)
        await self._pool.update_popularity(self._counts)

    async def _read(
        self, hours: set[int], known: Mapping[int, CountsByHash]
    ) -> dict[int, CountsByHash]:
        """Read those of some hours that have changed, the newest first, until the store fails."""
        changed: dict[int, CountsByHash] = {}
        newest_first = sorted(hours, reverse=True)
        for start in range(0, len(newest_first), HOURS_AT_ONCE):
            some = newest_first[start : start + HOURS_AT_ONCE]
            try:
                stale = await self._stale(some, known)
                read = zip(stale, await self._store.fetch_popularity(stale), strict=True)
            except HistoryStoreError:
                break  # counted and logged where it failed
            changed |= {hour: counts for hour, counts in read if _differ(counts, known.get(hour))}
            self._unread.difference_update(some)
        return changed

    async def _stale(self, hours: list[int], known: Mapping[int, CountsByHash]) -> list[int]:
        """Those of some hours with another total than is known, or of which nothing is."""
        stale = {hour for hour in hours if hour in self._unread and hour not in known}
        told = [hour for hour in hours if hour not in stale]
        totals = await self._store.fetch_popularity_totals(told)
        for hour, total in zip(told, totals, strict=True):
            if total != _total(known.get(hour)):
                stale.add(hour)
        return sorted(stale, reverse=True)


def _total(counts: CountsByHash | None) -> int:
    return 0 if counts is None else int(counts[1].sum())


def _differ(new: CountsByHash, old: CountsByHash | None) -> bool:
    if old is None:
        return len(new[0]) > 0
    return not all(np.array_equal(*pair) for pair in zip(new, old, strict=True))
