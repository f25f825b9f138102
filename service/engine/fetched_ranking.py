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
from service.engine.scoring import Parts, Ranked, Rows
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
    row_N: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Rows]) -> "Pairs":
        """Those of each query."""
        row_N = np.concatenate([np.empty(0, np.int64), *rows], dtype=np.int64)
        return cls(loops.starts_of(rows), row_N)

    @property
    def owner_N(self) -> NDArray[np.int64]:
        """The query that each is one of."""
        return self.for_each(np.arange(len(self.start_B1) - 1))

    def for_each(self, value_B: NDArray[ScalarT]) -> NDArray[ScalarT]:
        """What each query has, beside each of its items."""
        return np.repeat(value_B, self.start_B1[1:] - self.start_B1[:-1])


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
        """What the index found, by its inner product."""
        fetched = [query.fetched for query in queries]
        pairs = Pairs.of([one.row_N for one in fetched])
        part_N = np.concatenate([one.part_N for one in fetched])
        return RoughPairs(pairs.start_B1, pairs.row_N, part_N)

    def best_allowed(
        self, queries: Sequence[FetchedQuery], pairs: RoughPairs, slack_B: NDArray[np.float32]
    ) -> Pairs:
        """Those that may be shown and may be among each query's best, ties included.

        Args:
            slack_B: How much less than the worst of these others may score, roughly.
        """
        if any(query.matching is not None for query in queries):
            pairs = pairs.take(_match(queries, pairs))
        excluded = [query.excluded_E for query in queries]
        place_N, start_B1 = np.empty(len(pairs.row_N), np.int64), np.empty_like(pairs.start_B1)
        loops.choose_best(
            pairs.start_B1,
            pairs.row_N,
            pairs.score_N,
            loops.starts_of(excluded),
            np.concatenate(excluded).astype(np.int32, copy=False),
            np.array([query.count for query in queries], np.int64),
            slack_B,
            place_N,
            start_B1,
        )
        return Pairs(start_B1, pairs.row_N[place_N[: start_B1[-1]]])

    def rank(
        self, queries: Sequence[RankedQuery], pairs: Pairs, beside: Beside | None
    ) -> list[Ranked]:
        """Score pairs exactly and keep each query's best, as `Scorer.rank` would."""
        preference_BD, (rows, width) = preferences(queries), self._candidate_VD.shape
        beside_PN = np.empty((0, len(pairs.row_N)), np.float32)
        names: tuple[str, ...] = ()
        if beside is not None:
            parts = beside(pairs)
            names, beside_PN = (*parts,), np.stack([*parts.values()])
        row_K, start_B1 = np.empty_like(pairs.row_N), np.empty_like(pairs.start_B1)
        encoder_K, beside_PK = np.empty(len(row_K), np.float32), np.empty_like(beside_PN)
        score_K = np.empty(len(row_K), np.float64)
        loops.rank_pairs(
            rows,
            width,
            self._candidate_VD,
            pairs.row_N,
            len(queries),
            preference_BD,
            pairs.start_B1,
            self.temperature,
            len(names),
            beside_PN,
            np.array([query.count for query in queries], np.int64),
            row_K,
            start_B1,
            encoder_K,
            beside_PK,
            score_K,
        )
        part_K = {"encoder": encoder_K, **dict(zip(names, beside_PK, strict=True))}
        return [
            Ranked(
                row_K[start:end],
                {name: values[start:end] for name, values in part_K.items()},
                score_K[start:end],
            )
            for start, end in pairwise(start_B1.tolist())
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


def slack_of(queries: Sequence[FetchedQuery]) -> NDArray[np.float32]:
    """What two inner products of an index may be wrong by, one of them of the worst of the best."""
    return np.array([2 * (ROUNDING + query.fetched.error) for query in queries], np.float32)


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
