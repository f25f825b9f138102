"""Ranks videos for a whole batch of plain queries at once: no filters by diversity, one prior.

What `retrieval.py` does query by query in some thirty small steps of numpy is done here in as many
large ones: the answers are the same, the cost a fraction.

Shape suffixes: B queries, V video rows, G groups of them, N (query, row) pairs, P popular rows,
E excluded rows, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.engine.candidate_index import Candidates
from service.engine.popularity_prior import PopularityPrior
from service.engine.retrieval import ROUNDING
from service.engine.scoring import Parts, Ranked, Rows, sum_parts
from service.engine.video_conditions import Allows

MIN_GROUPS = 256
POPULAR, POPULAR_OF_ROOT = 4096, 10
"""Popular videos that are compared for every query, at least and times the catalogue's square root:
so many that, together with what the index fetches, one look is nearly always enough."""


@dataclass(frozen=True, slots=True)
class PlainQuery:
    """What one query of a batch asks of the ranking.

    Attributes:
        count: How many videos.
        weight: Of the prior's part, above 0.
        matching: None without a filter.
        fetched: What the index found first.
    """

    count: int
    preference_D: NDArray[np.float32]
    weight: float
    excluded_E: Rows
    matching: Allows | None
    fetched: Candidates


@dataclass(frozen=True, slots=True)
class _Compared:
    """Rows that are scored for every query.

    Attributes:
        vector_DP: As they are multiplied with twice as fast.
        logit_P: Of the prior; None without one.
        place_V: Where in `row_P` a catalogue row stands; behind its end where it doesn't.
    """

    row_P: Rows
    vector_DP: NDArray[np.float32]
    logit_P: NDArray[np.float32] | None
    place_V: NDArray[np.integer]


class BatchRanking:
    """Scores a batch's videos.

    Args:
        candidate_VD: Unit vectors by catalogue row; row 0 is padding.
        temperature: The encoder's part is cosine / temperature.
    """

    def __init__(self, candidate_VD: NDArray[np.float32], temperature: float) -> None:
        self._candidate_VD = candidate_VD
        self._temperature = np.float32(temperature)
        self._popular: tuple[PopularityPrior, _Compared] | None = None

    @cached_property
    def _candidate_DV(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._candidate_VD.T)

    def rank_all(
        self, queries: Sequence[PlainQuery], prior: PopularityPrior | None
    ) -> list[Ranked]:
        """Rank all videos for each query, exactly; for small catalogues.

        Scores everything roughly, then exactly what may be among the best, ties included.
        """
        row_V = np.arange(len(self._candidate_VD))
        logit_V = None if prior is None else prior.logit_V
        compared = _Compared(row_V, self._candidate_DV, logit_V, row_V)
        owner_N, row_N = self._best_of(queries, compared)
        return self._rank(queries, prior, owner_N, row_N)

    def rank_candidates(
        self, queries: Sequence[PlainQuery], prior: PopularityPrior | None
    ) -> list[Ranked | None]:
        """Rank what was fetched for each query, and some thousand videos that are popular now.

        Returns:
            None for a query where a video left out of both may belong to the best.
        """
        fetched = [query.fetched.row_N for query in queries]
        popular = Candidates(np.empty(0, np.int64), 0.0)
        if prior is not None:
            root = math.sqrt(len(self._candidate_VD))
            popular = prior.propose(max(POPULAR, round(POPULAR_OF_ROOT * root)))
            fetched = [  # the popular ones are proposed once
                row_N[prior.place_V[row_N] >= len(popular.row_N)] for row_N in fetched
            ]
        owner_N = np.repeat(np.arange(len(queries)), [len(row_N) for row_N in fetched])
        row_N: Rows = np.concatenate(fetched)
        is_allowed_N = self._allows(queries, owner_N, row_N)
        owners, rows = [owner_N[is_allowed_N]], [row_N[is_allowed_N]]
        if prior is not None:
            owner_N, row_N = self._best_of(queries, self._compare(prior, popular.row_N))
            owners.append(owner_N)
            rows.append(row_N)
        ranked = self._rank(queries, prior, np.concatenate(owners), np.concatenate(rows))
        return [
            best if self._suffices(best, query, popular.floor) else None
            for query, best in zip(queries, ranked, strict=True)
        ]

    def _compare(self, prior: PopularityPrior, row_P: Rows) -> _Compared:
        """The popular rows' vectors, gathered once for each prior."""
        known = self._popular
        if known is None or known[0] is not prior:
            vector_DP = np.ascontiguousarray(self._candidate_VD[row_P].T)
            known = prior, _Compared(row_P, vector_DP, prior.logit_V[row_P], prior.place_V)
            self._popular = known
        return known[1]

    def _best_of(
        self, queries: Sequence[PlainQuery], compared: _Compared
    ) -> tuple[NDArray[np.intp], Rows]:
        """Pairs that hold each query's best of some rows, ties included, and few others.

        Scores everything roughly: equal videos only nearly equally.
        """
        row_P = compared.row_P
        preference_BD = (_preferences(queries) / self._temperature).astype(np.float32, copy=False)
        score_BP = preference_BD @ compared.vector_DP
        if compared.logit_P is not None:
            score_BP += _weights(queries)[:, None] * compared.logit_P
        for score_P, query in zip(score_BP, queries, strict=True):
            place_E = compared.place_V[query.excluded_E]
            score_P[place_E[place_E < len(row_P)]] = -np.inf
            if query.matching is not None:
                score_P[~query.matching(row_P)] = -np.inf
        padding = compared.place_V[0]
        if padding < len(row_P):
            score_BP[:, padding] = -np.inf
        floor_B = _at_most_the_worst(score_BP, [query.count for query in queries])
        floor_B -= 2 * ROUNDING / self._temperature
        np.maximum(floor_B, np.finfo(np.float32).min, out=floor_B)  # never what was left out
        pair_N = np.flatnonzero(score_BP >= floor_B[:, None])  # far faster than `nonzero`
        owner_N, place_N = np.divmod(pair_N, len(row_P))
        return owner_N, row_P[place_N]

    def _rank(
        self,
        queries: Sequence[PlainQuery],
        prior: PopularityPrior | None,
        owner_N: NDArray[np.intp],
        row_N: Rows,
    ) -> list[Ranked]:
        """Score pairs exactly and keep each query's best, as `Scorer.rank` would."""
        preference_ND = _preferences(queries)[owner_N]
        cosine_N = np.einsum("nd,nd->n", self._candidate_VD[row_N], preference_ND)
        parts: Parts = {"encoder": cosine_N / self._temperature}
        if prior is not None:
            parts["prior"] = prior.logit_V[row_N] * _weights(queries)[owner_N]
        order_N = np.lexsort((row_N, -sum_parts(parts, len(row_N)), owner_N))
        ordered = Ranked(row_N, parts).take(order_N)
        starts = np.searchsorted(owner_N[order_N], np.arange(len(queries) + 1)).tolist()
        return [
            ordered.take(slice(start, min(start + query.count, end)))
            for query, start, end in zip(queries, starts, starts[1:], strict=False)
        ]

    def _allows(
        self, queries: Sequence[PlainQuery], owner_N: NDArray[np.intp], row_N: Rows
    ) -> NDArray[np.bool_]:
        """Which pairs are neither excluded nor filtered out."""
        rows = len(self._candidate_VD)
        excluded = [query.excluded_E.astype(np.int64) for query in queries]
        keys = [number * rows + excluded_E for number, excluded_E in enumerate(excluded)]
        key_E = np.append(np.sort(np.concatenate(keys)), np.iinfo(np.int64).max)
        key_N = owner_N * rows + row_N
        is_allowed_N: NDArray[np.bool_] = key_E[np.searchsorted(key_E, key_N)] != key_N
        for number, query in enumerate(queries):
            if query.matching is not None:
                own = owner_N == number
                is_allowed_N[own] &= query.matching(row_N[own])
        return is_allowed_N

    def _suffices(self, best: Ranked, query: PlainQuery, popular_floor: float) -> bool:
        """Whether no video outside of both proposals can belong to the best."""
        if query.fetched.floor == -np.inf:
            return True
        left_out = (query.fetched.floor + ROUNDING) / float(self._temperature)
        left_out += query.weight * popular_floor
        return len(best) >= query.count and float(best.score_K[-1]) > left_out


def _preferences(queries: Sequence[PlainQuery]) -> NDArray[np.float32]:
    return np.stack([query.preference_D for query in queries])


def _weights(queries: Sequence[PlainQuery]) -> NDArray[np.float32]:
    return np.array([query.weight for query in queries], np.float32)


def _at_most_the_worst(score_BV: NDArray[np.float32], counts: Sequence[int]) -> NDArray[np.float32]:
    """A score that each query's `count` best reach, mostly close to the worst of them.

    The best of each of some disjoint groups: the `count` best of these are at most as good as the
    `count` best of all. So a few hundred numbers are partitioned in place of a whole catalogue.
    """
    groups = max(MIN_GROUPS, 4 * max(counts))
    whole = score_BV.shape[1] // groups * groups
    if whole < 2 * groups:  # too small to be worth it
        best_BG = score_BV
    else:
        best_BG = score_BV[:, :whole].reshape(len(score_BV), -1, groups).max(axis=1)
    worst = [
        np.partition(best_G, -count)[-count] if count <= len(best_G) else -np.inf
        for best_G, count in zip(best_BG, counts, strict=True)
    ]
    return np.array(worst, np.float32)
