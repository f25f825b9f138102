"""The popularity prior: what has been watched lately, as a part of every video's score.

Shape suffixes: E different videos in one hour, V video rows, N some of them, P the first of them,
H half-lives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import Bundle
from lsvcr.popularity import HourCounts, decayed_counts
from service.engine.popularity import FIRST_LOOK, WIDENING, PopularItems, places
from service.engine.scoring import Parts, Proposed, Ranked, Rows
from service.engine.video_conditions import Allows

FIRST = 1 << 16
"""Videos that are put in order beforehand."""

CountsByHash = tuple[NDArray[np.uint64], NDArray[np.int64]]
"""One hour's events by video: item hashes, each once, and counts."""


@dataclass(frozen=True, slots=True, eq=False)
class LiveCounts:
    """What happened lately, as some moment knows it.

    Attributes:
        hour: Of the requests to come, in hours since 1970: only earlier hours count.
        by_hour: Counts of single hours. Those before a bundle's seed are in that seed already.
    """

    hour: int
    by_hour: Mapping[int, CountsByHash] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class LiveRows:
    """Live counts as one bundle sees them, after its seed.

    Attributes:
        row_by_hour: int32, the catalogue row of each hash; 0 where the bundle doesn't know it.
    """

    counts: LiveCounts
    row_by_hour: Mapping[int, NDArray[np.int32]]

    @classmethod
    def of(cls, bundle: Bundle, counts: LiveCounts, seed_hour: int, before: Self | None) -> Self:
        """Look up all hashes, but those of hours that are the same objects as before."""
        row_by_hour = {}
        for hour, hour_counts in counts.by_hour.items():
            if seed_hour <= hour < counts.hour:
                row_E = None if before is None else before._rows(hour, hour_counts)
                if row_E is None:
                    row_E = bundle.catalogue.video_index.rows(hour_counts[0])
                row_by_hour[hour] = row_E
        return cls(counts, row_by_hour)

    def changed_since(self, before: Self) -> NDArray[np.int32]:
        """All rows that have counts in an hour that has changed, each once."""
        row_N = [np.empty(0, np.int32)]
        for hour in self.row_by_hour.keys() | before.row_by_hour.keys():
            new_E, old_E = self.row_by_hour.get(hour), before.row_by_hour.get(hour)
            if new_E is not old_E:
                row_N += [row_E for row_E in (new_E, old_E) if row_E is not None]
        joined_N = np.concatenate(row_N)
        is_changed_V = np.zeros(joined_N.max(initial=0) + 1, bool)
        is_changed_V[joined_N] = True  # `unique` takes ten times as long, and stops other threads
        return (np.flatnonzero(is_changed_V[1:]) + 1).astype(np.int32)

    def by_place(self, place_V: NDArray[np.int32], count: int) -> dict[int, HourCounts]:
        """Counts by the places of their rows, where those are below `count`."""
        by_hour = {}
        for hour, row_E in self.row_by_hour.items():
            place_E = place_V[row_E]
            is_there_E = place_E < count
            count_E = self.counts.by_hour[hour][1]
            by_hour[hour] = place_E[is_there_E].astype(np.int64), count_E[is_there_E]
        return by_hour

    def _rows(self, hour: int, counts: CountsByHash) -> NDArray[np.int32] | None:
        return self.row_by_hour.get(hour) if self.counts.by_hour.get(hour) is counts else None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class PopularityPrior:
    """One bundle's prior at one moment; never changed, but replaced as a whole.

    Attributes:
        logit_V: float32, by catalogue row; row 0 means nothing.
        overall: The bundle's popular order, for videos that are equal to the prior.
        first_P: The first videos in the prior's order: hardly anybody looks further, and to order
            a million takes ten times as long.
        place_V: int32, where each row stands in `first_P`; behind its end where it doesn't.
        live: What was added to the bundle's seed.
    """

    logit_V: NDArray[np.float32]
    overall: PopularItems
    first_P: NDArray[np.int64]
    place_V: NDArray[np.int32]
    live: LiveRows | None = None

    @classmethod
    def build(
        cls,
        bundle: Bundle,
        overall: PopularItems,
        counts: LiveCounts | None,
        before: "PopularityPrior | None" = None,
    ) -> "PopularityPrior | None":
        """Compute the prior, the seed decayed and live counts added; None for a bundle without.

        Args:
            overall: The bundle's popular order.
            counts: None takes the seed as it is.
            before: The bundle's prior until now: within an hour only that is computed which events
                that came late have changed.
        """
        entry = bundle.manifest.prior
        if entry is None:
            return None
        counts = LiveCounts(entry.seed_hour) if counts is None else counts
        known = None if before is None else before.live
        live = LiveRows.of(bundle, counts, entry.seed_hour, known)
        videos = len(overall.place_V)
        rows: slice | NDArray[np.int32]
        if before is None or known is None or known.counts.hour != counts.hour:
            rows, place_V, count = slice(None), np.arange(videos, dtype=np.int32), videos
        else:
            rows = live.changed_since(known)
            place_V, count = places(rows, videos), len(rows)
        count_HN = decayed_counts(
            bundle.popular.decayed_count_HV[:, rows],
            entry.seed_hour,
            live.by_place(place_V, count),
            counts.hour,
            entry.half_lives_days,
        )
        if before is None or isinstance(rows, slice):
            return cls.of(entry.network.logits(count_HN), overall, live)
        logit_V = before.logit_V.copy()
        logit_V[rows] = entry.network.logits_of(rows, count_HN)
        return cls.of(logit_V, overall, live)

    @classmethod
    def of(
        cls, logit_V: NDArray[np.float32], overall: PopularItems, live: LiveRows | None = None
    ) -> "PopularityPrior":
        """Put the first videos in order."""
        first_P = _first(logit_V[1:], overall.place_V[1:], FIRST, overall)
        return cls(logit_V, overall, first_P, places(first_P, len(logit_V)), live)

    def parts(self, row_N: Rows, *, weight: float = 1.0) -> Parts:
        """Look up the prior's part of some rows' scores, times a weight."""
        return {"prior": self.logit_V[row_N] * np.float32(weight)}

    def propose(self, count: int, *, weight: float = 1.0) -> Proposed:
        """The most popular rows now, and the most that any other's part can be.

        Args:
            weight: Above 0.
        """
        first_P = self.first_P
        if len(first_P) < min(count + 1, len(self.overall.row_P)):
            first_P = self._first_of(slice(1, None), count + 1)
        if count >= len(first_P):
            return Proposed(first_P, -np.inf)
        return Proposed(first_P[:count], weight * float(self.logit_V[first_P[count]]))

    def best(self, wanted: int, allows: Allows) -> Ranked:
        """As `PopularItems.best`, in the prior's order and scored by it."""
        row_N, count = self.first_P[:0], max(FIRST_LOOK, wanted)
        while len(row_N) < wanted:
            if count // WIDENING >= len(self.first_P):
                row_N = np.arange(1, len(self.logit_V))
                row_N = self._first_of(row_N[allows(row_N)], wanted)
                break
            row_N = self.first_P[:count]
            row_N = row_N[allows(row_N)]
            count *= WIDENING
        row_N = row_N[:wanted]
        return Ranked.of(row_N, self.parts(row_N))

    def _first_of(self, row_N: Rows | slice, count: int) -> NDArray[np.int64]:
        place_N = self.overall.place_V[row_N]
        return _first(self.logit_V[row_N], place_N, count, self.overall)


def _first(
    logit_N: NDArray[np.float32], place_N: NDArray[np.int32], count: int, overall: PopularItems
) -> NDArray[np.int64]:
    """The first of some rows by their logits, equal ones in the overall order.

    One number stands for logit and place, as numbers are put in order several times faster than
    pairs.
    """
    bits_N = (0 - logit_N).view(np.int32)  # also makes -0 and 0 equal
    bits_N ^= (bits_N >> 31) & np.iinfo(np.int32).max  # negative numbers' bits are in reverse
    key_N = bits_N.astype(np.int64) << 32 | place_N
    if count < len(key_N):
        key_N = np.partition(key_N, count)[:count]
    key_N.sort()
    row_N: NDArray[np.int32] = overall.row_P[key_N & np.iinfo(np.uint32).max]
    return row_N.astype(np.int64)
