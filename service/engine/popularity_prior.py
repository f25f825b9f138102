"""The popularity prior: what has been watched lately, as a part of every video's score.

Shape suffixes: E different videos in one hour, V video rows, H half-lives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import Bundle
from lsvcr.popularity import HourCounts, decayed_counts
from service.engine.popularity import PopularItems
from service.engine.scoring import Parts, Proposed, Rows

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
class PopularityPrior:
    """One bundle's prior at one moment; never changed, but replaced as a whole.

    Attributes:
        logit_V: float32, by catalogue row; row 0 means nothing.
        popular: All videos in its order.
        place_V: int32, where each row stands in that order; the padding row behind all.
    """

    logit_V: NDArray[np.float32]
    popular: PopularItems
    place_V: NDArray[np.int32]

    @classmethod
    def build(
        cls, bundle: Bundle, overall: PopularItems, counts: LiveCounts | None
    ) -> "PopularityPrior | None":
        """Compute the prior, the seed decayed and live counts added; None for a bundle without.

        Args:
            overall: The bundle's popular order, for videos that are equal to the prior.
            counts: None takes the seed as it is.
        """
        entry = bundle.manifest.prior
        if entry is None:
            return None
        counts = LiveCounts(entry.seed_hour) if counts is None else counts
        count_HV = decayed_counts(
            bundle.popular.decayed_count_HV,
            entry.seed_hour,
            {
                hour: _by_row(bundle, hour_counts)
                for hour, hour_counts in counts.by_hour.items()
                if entry.seed_hour <= hour < counts.hour
            },
            counts.hour,
            entry.half_lives_days,
        )
        logit_V = entry.network.logits(count_HV)
        return cls.of(logit_V, overall.by_logit("prior", logit_V))

    @classmethod
    def of(cls, logit_V: NDArray[np.float32], popular: PopularItems) -> "PopularityPrior":
        """Note where each video stands in the prior's order."""
        place_V = np.full(len(logit_V), len(popular.row_P), np.int32)
        place_V[popular.row_P] = np.arange(len(popular.row_P), dtype=np.int32)
        return cls(logit_V, popular, place_V)

    def parts(self, row_N: Rows, *, weight: float = 1.0) -> Parts:
        """Look up the prior's part of some rows' scores, times a weight."""
        return {"prior": self.logit_V[row_N] * np.float32(weight)}

    def propose(self, count: int, *, weight: float = 1.0) -> Proposed:
        """The most popular rows now, and the most that any other's part can be.

        Args:
            weight: Above 0.
        """
        row_P, score_P = self.popular.row_P, self.popular.score_P
        floor = weight * float(score_P[count]) if count < len(score_P) else -np.inf
        return Proposed(row_P[:count].astype(np.int64), floor)


def _by_row(bundle: Bundle, counts: CountsByHash) -> HourCounts:
    """Counts by catalogue row; videos that the bundle doesn't know are left out."""
    hash_E, count_E = counts
    row_E = bundle.catalogue.video_index.rows(hash_E)
    is_known_E = row_E > 0
    return row_E[is_known_E].astype(np.int64), count_E[is_known_E]
