"""Ranks what was fetched for each query of a batch, exactly, by the whole score, all at once.

What `retrieval.py` does query by query in some thirty small steps of numpy is done here in as many
large ones: the answers are the same, the cost a fraction.

Shape suffixes: B queries, V catalogue rows, N (query, row) pairs, E excluded rows, D width.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from lsvcr import loops
from service.engine.candidate_index import Candidates
from service.engine.retrieval import ROUNDING
from service.engine.scoring import Parts, Ranked, Rows, cosines
from service.engine.video_conditions import Allows

ScalarT = TypeVar("ScalarT", bound=np.generic)


class RankedQuery(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """How many items a query wants, and whose taste orders them."""

    count: int
    preference_D: NDArray[np.float32]


class FetchedQuery(RankedQuery, frozen=True, eq=False, kw_only=True):
    """What one query of a batch asks of what was fetched for it.

    Attributes:
        matching: None without a filter.
        fetched: What was found first.
    """

    excluded_E: Rows
    matching: Allows | None
    fetched: Candidates


class Pairs(msgspec.Struct, frozen=True, eq=False):
    """Items that may be among queries' best, query by query.

    Attributes:
        start_B1: Query b's are from `start_B1[b]` to `[b + 1]`.
    """

    start_B1: NDArray[np.int64]
    row_N: Rows

    @classmethod
    def of(cls, rows: Sequence[Rows]) -> "Pairs":
        """Those of each query."""
        row_N = np.concatenate([np.empty(0, np.int64), *rows])
        return cls(loops.starts_of(rows), row_N)

    @property
    def owner_N(self) -> NDArray[np.int64]:
        """The query that each is one of."""
        return self.for_each(np.arange(len(self.start_B1) - 1))

    def for_each(self, value_B: NDArray[ScalarT]) -> NDArray[ScalarT]:
        """What each query has, beside each of its items."""
        return np.repeat(value_B, np.diff(self.start_B1))


class RoughPairs(Pairs, frozen=True, eq=False):
    """The same with their rough scores."""

    score_N: NDArray[np.float32]

    def take(self, wanted_N: NDArray[np.bool_]) -> "RoughPairs":
        """Only some of them."""
        taken_N1 = np.append(0, np.cumsum(wanted_N))
        return RoughPairs(taken_N1[self.start_B1], self.row_N[wanted_N], self.score_N[wanted_N])


Beside = Callable[[Pairs], Parts]
"""Computes the parts of some pairs' scores that stand beside the encoder's."""


class FetchedRanking:
    """Scores a batch's items of one kind.

    Args:
        candidate_VD: Unit vectors by catalogue row; row 0 is padding.
        temperature: The encoder's part is cosine / temperature.
    """

    def __init__(self, candidate_VD: NDArray[np.float32], temperature: float) -> None:
        self._candidate_VD = candidate_VD
        self.temperature = np.float32(temperature)

    def fetched(self, queries: Sequence[FetchedQuery]) -> RoughPairs:
        """What the index found, by its inner product over the temperature: no less than it is."""
        fetched = [query.fetched for query in queries]
        pairs = Pairs.of([one.row_N for one in fetched])
        score_N = np.concatenate([one.part_N for one in fetched])
        score_N += pairs.for_each(np.array([one.error for one in fetched], np.float32))
        score_N /= self.temperature
        return RoughPairs(pairs.start_B1, pairs.row_N, score_N)

    def best_allowed(
        self, queries: Sequence[FetchedQuery], pairs: RoughPairs, *, is_whole: bool = True
    ) -> RoughPairs:
        """Those that may be shown and may be among each query's best, ties included.

        Args:
            is_whole: Whether rough scores are of the whole score: else all may be among the best.
        """
        if any(query.matching is not None for query in queries):
            pairs = pairs.take(_match(queries, pairs))
        excluded = [query.excluded_E for query in queries]
        error = [ROUNDING + query.fetched.error if is_whole else np.inf for query in queries]
        place_N, start_B1 = np.empty(len(pairs.row_N), np.int64), np.empty_like(pairs.start_B1)
        loops.choose_best(
            pairs.start_B1,
            np.ascontiguousarray(pairs.row_N, np.int64),
            pairs.score_N,
            loops.starts_of(excluded),
            np.concatenate(excluded).astype(np.int32, copy=False),
            np.array([query.count for query in queries], np.int64),
            2 * np.array(error, np.float32) / self.temperature,
            place_N,
            start_B1,
        )
        place_N = place_N[: start_B1[-1]]
        return RoughPairs(start_B1, pairs.row_N[place_N], pairs.score_N[place_N])

    def rank(
        self, queries: Sequence[RankedQuery], pairs: Pairs, beside: Beside | None
    ) -> list[Ranked]:
        """Score pairs exactly and keep each query's best, as `Scorer.rank` would."""
        preference_BD = preferences(queries)
        cosine_N = cosines(self._candidate_VD, pairs.row_N, preference_BD, pairs.start_B1)
        parts: Parts = {"encoder": cosine_N / self.temperature}
        if beside is not None:
            parts |= beside(pairs)
        scored = Ranked.of(pairs.row_N, parts)
        ordered = scored.take(np.lexsort((pairs.row_N, -scored.score_K, pairs.owner_N)))
        return [
            ordered.take(slice(start, min(start + query.count, end)))
            for query, (start, end) in zip(queries, pairwise(pairs.start_B1.tolist()), strict=True)
        ]

    def suffices(self, best: Ranked, query: FetchedQuery, beside_floor: float) -> bool:
        """Whether no item left out of what was fetched can belong to the best.

        Args:
            beside_floor: The most that other parts than what the index knows add to its score.
        """
        if query.fetched.floor == -np.inf:
            return True
        if len(best) < query.count:
            return False
        left_out = (query.fetched.floor + ROUNDING) / float(self.temperature) + beside_floor
        return float(best.score_K[-1]) > left_out


def preferences(queries: Sequence[RankedQuery]) -> NDArray[np.float32]:
    """Whose tastes order them, (B, D)."""
    return np.stack([query.preference_D for query in queries])


def _match(queries: Sequence[FetchedQuery], pairs: Pairs) -> NDArray[np.bool_]:
    """Which pairs their own query's filter lets pass."""
    is_wanted_N = np.ones(len(pairs.row_N), np.bool_)
    for query, (start, end) in zip(queries, pairwise(pairs.start_B1.tolist()), strict=True):
        if query.matching is not None:
            is_wanted_N[start:end] = query.matching(pairs.row_N[start:end])
    return is_wanted_N
