"""Ranks videos for a whole batch of plain queries at once: no diversity, one prior.

Shape suffixes: B queries, V video rows, G groups of them, N (query, row) pairs, P popular rows,
W width and one more for the prior.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from service.engine.fetched_ranking import (
    Beside,
    FetchedQuery,
    FetchedRanking,
    Pairs,
    preferences,
    slack_of,
)
from service.engine.popularity_prior import FIRST, PopularityPrior
from service.engine.retrieval import ROUNDING
from service.engine.scoring import Parts, Ranked

MIN_GROUPS = 256
POPULAR, POPULAR_OF_ROOT = 4096, 10
"""Popular videos that are compared for every query at least, and times the catalogue's square root:
so many that, together with what the index fetches, one look is nearly always enough."""

PRODUCT_ROWS = 768
"""Rows of one matrix product: of many more BLAS first makes a copy, which takes longer than the
product where there are few queries."""


class PlainQuery(FetchedQuery, frozen=True, eq=False, kw_only=True):
    """What one query of a batch asks of the ranking.

    Attributes:
        weight: Of the prior's part, above 0.
    """

    weight: float


@dataclass(frozen=True, slots=True)
class _Compared:
    """Rows that are scored for every query.

    Attributes:
        vector_WP: As they are multiplied with twice as fast; behind them, with a prior, its logits.
        place_V: Where in `row_P` a catalogue row stands; behind its end where it doesn't.
    """

    row_P: NDArray[np.int64]
    vector_WP: NDArray[np.float32]
    place_V: NDArray[np.integer]


class BatchRanking:
    """Scores a batch's videos.

    Args:
        candidate_VD: Unit vectors by catalogue row; row 0 is padding.
        temperature: The encoder's part is cosine / temperature.
    """

    def __init__(self, candidate_VD: NDArray[np.float32], temperature: float) -> None:
        self._candidate_VD = candidate_VD
        self._fetched = FetchedRanking(candidate_VD, temperature)
        root = math.sqrt(len(candidate_VD))
        # No more than the prior has put in order: it knows no place of those behind.
        self._popular = min(FIRST, max(POPULAR, round(POPULAR_OF_ROOT * root)))
        self._row_V = np.arange(len(candidate_VD))
        # By prior, and gone with it: while the next one's are gathered, batches go on with the one
        # before. Where there is no prior the key is this ranking itself.
        self._compared: WeakKeyDictionary[object, _Compared] = WeakKeyDictionary()

    def prepare_all(self, prior: PopularityPrior | None) -> None:
        """Gather all vectors beforehand, which a first batch would wait for: of 10,000 for 10 ms.

        This and `prepare_candidates` may be called from other threads.
        """
        self._compare_all(prior)

    def prepare_candidates(self, prior: PopularityPrior) -> None:
        """Gather the popular videos' vectors, likewise: where a bundle is new that takes 20 ms."""
        self._compare(prior, prior.propose(self._popular).row_N, prior.place_V)

    def rank_all(
        self, queries: Sequence[PlainQuery], prior: PopularityPrior | None
    ) -> list[Ranked]:
        """Rank all videos for each query, exactly; for small catalogues.

        Scores everything roughly, then exactly what may be among the best, ties included.
        """
        owner_N, row_N, _ = self._best_of(queries, self._compare_all(prior))
        pairs = Pairs(_starts_by(owner_N, queries), row_N)
        return self._fetched.rank(queries, pairs, _beside(queries, prior))

    def rank_candidates(
        self, queries: Sequence[PlainQuery], prior: PopularityPrior | None
    ) -> list[Ranked | None]:
        """Rank what was fetched for each query, and some thousand videos that are popular now.

        The latter only where the prior had no say in what was fetched. Where it had, it is the
        engine's, which may be some seconds older or newer than this one.

        Returns:
            None for a query where a video left out of both may belong to the best.
        """
        is_whole = [prior is None or query.fetched.with_parts for query in queries]
        if prior is not None and not all(is_whole):
            if any(is_whole):  # the engine was told only now
                return [self.rank_candidates([query], prior)[0] for query in queries]
            ranked, popular_floor = self._rank_beside_popular(queries, prior)
        else:
            fetched = self._fetched.fetched(queries)
            allowed = self._fetched.best_allowed(queries, fetched, slack_of(queries))
            ranked = self._fetched.rank(queries, allowed, _beside(queries, prior))
            popular_floor = 0.0
        return [
            best if self._fetched.suffices(best, query, query.weight * popular_floor) else None
            for query, best in zip(queries, ranked, strict=True)
        ]

    def _rank_beside_popular(
        self, queries: Sequence[PlainQuery], prior: PopularityPrior
    ) -> tuple[list[Ranked], float]:
        """Rank with a prior; also the most that its part of a video left out may be, at weight 1.

        Of what was fetched ever less is looked at, as each step costs more than the one before.
        """
        fetched = self._fetched.fetched(queries)
        error_B = np.array([query.fetched.error for query in queries], np.float32)
        score_N = fetched.score_N
        score_N += fetched.for_each(error_B)
        score_N /= self._fetched.temperature
        score_N += fetched.for_each(_weights(queries)) * prior.logit_V[fetched.row_N]
        popular = prior.propose(self._popular)
        compared = self._compare(prior, popular.row_N, prior.place_V)
        owner_N, row_N, floor_B = self._best_of(queries, compared)
        fetched = fetched.take(fetched.score_N >= fetched.for_each(floor_B))
        fetched = fetched.take(prior.place_V[fetched.row_N] >= len(popular.row_N))
        slack_B = slack_of(queries) / self._fetched.temperature
        allowed = self._fetched.best_allowed(queries, fetched, slack_B)
        owner_N = np.append(owner_N, allowed.owner_N)
        by_owner_N = np.argsort(owner_N, kind="stable")
        row_N = np.append(row_N, allowed.row_N)[by_owner_N]
        pairs = Pairs(_starts_by(owner_N[by_owner_N], queries), row_N)
        return self._fetched.rank(queries, pairs, _beside(queries, prior)), popular.floor

    def _a_little_less(self, score_B: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores that rounding takes no equal one below; never those of what was left out."""
        lower_B: NDArray[np.float32] = score_B - 2 * ROUNDING / self._fetched.temperature
        return np.maximum(lower_B, np.finfo(np.float32).min)

    def _compare_all(self, prior: PopularityPrior | None) -> _Compared:
        return self._compare(prior, self._row_V, self._row_V)

    def _compare(
        self, prior: PopularityPrior | None, row_P: NDArray[np.int64], place_V: NDArray[np.integer]
    ) -> _Compared:
        """The rows' vectors, gathered once for each prior."""
        key = self if prior is None else prior
        compared = self._compared.get(key)
        if compared is None:
            parts = [self._candidate_VD[row_P].T]
            if prior is not None:
                parts.append(prior.logit_V[None, row_P])
            compared = _Compared(row_P, np.ascontiguousarray(np.concatenate(parts)), place_V)
            self._compared[key] = compared
        return compared

    def _best_of(
        self, queries: Sequence[PlainQuery], compared: _Compared
    ) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float32]]:
        """Pairs that hold each query's best of some rows, ties included, and few others.

        Scores everything roughly: equal videos only nearly equally. Also what a video must score
        to be among the best, or a little less.
        """
        row_P = compared.row_P
        factor_BW = np.column_stack(
            [preferences(queries) / self._fetched.temperature, _weights(queries)]
        )
        factor_BW = factor_BW[:, : len(compared.vector_WP)]
        score_BP = np.empty((len(queries), len(row_P)), np.float32)
        for start in range(0, len(row_P), PRODUCT_ROWS):
            part = slice(start, start + PRODUCT_ROWS)
            np.matmul(factor_BW, compared.vector_WP[:, part], out=score_BP[:, part])
        _leave_out(score_BP, queries, compared)
        worst_B = _at_most_the_worst(score_BP, [query.count for query in queries])
        floor_B = self._a_little_less(worst_B)
        pair_N = np.flatnonzero(score_BP >= floor_B[:, None])  # far faster than `nonzero`
        owner_N, place_N = np.divmod(pair_N, len(row_P))
        return owner_N, row_P[place_N], floor_B


def _leave_out(
    score_BP: NDArray[np.float32], queries: Sequence[PlainQuery], compared: _Compared
) -> None:
    """Give the lowest score to what is padding, excluded or filtered out."""
    row_P, place_V = compared.row_P, compared.place_V
    owner_N = np.repeat(np.arange(len(queries)), [len(query.excluded_E) for query in queries])
    place_N = place_V[np.concatenate([query.excluded_E for query in queries])]
    is_here_N = place_N < len(row_P)
    score_BP[owner_N[is_here_N], place_N[is_here_N]] = -np.inf
    if place_V[0] < len(row_P):
        score_BP[:, place_V[0]] = -np.inf
    for score_P, query in zip(score_BP, queries, strict=True):
        if query.matching is not None:
            score_P[~query.matching(row_P)] = -np.inf


def _starts_by(owner_N: NDArray[np.int64], queries: Sequence[PlainQuery]) -> NDArray[np.int64]:
    """Where each query's begin, by what they are one of."""
    return np.searchsorted(owner_N, np.arange(len(queries) + 1))


def _weights(queries: Sequence[PlainQuery]) -> NDArray[np.float32]:
    return np.array([query.weight for query in queries], np.float32)


def _beside(queries: Sequence[PlainQuery], prior: PopularityPrior | None) -> Beside | None:
    """The prior's part of the score, as each query weighs it."""
    if prior is None:
        return None

    def parts_of(pairs: Pairs) -> Parts:
        return {"prior": prior.logit_V[pairs.row_N] * pairs.for_each(_weights(queries))}

    return parts_of


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
    place_B = np.maximum(best_BG.shape[1] - np.array(counts), 0)
    sorted_BG = np.partition(best_BG, np.unique(place_B), axis=1)  # at these places
    worst_B: NDArray[np.float32] = sorted_BG[np.arange(len(counts)), place_B]
    worst_B[np.array(counts) > best_BG.shape[1]] = -np.inf
    return worst_B
