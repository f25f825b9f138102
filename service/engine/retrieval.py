"""Finds the best allowed items: over-fetch from the retrievers, widen, then scan everything.

Shape suffixes: N rows at hand.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.ma  # `unique` imports it when it is called first, which takes 50 ms
from numpy.typing import NDArray

from service.engine.candidate_index import Candidates, Kind
from service.engine.engine import OpenBundle
from service.engine.scoring import Proposed, Ranked, Rows, Scorer
from service.engine.video_conditions import Allows

MARGIN = 32
"""Candidates fetched beyond those that are surely needed."""
MARGIN_WITH_PRIOR = 256
"""The same where other parts than the encoder's move many of them behind others."""
WIDENING = 8
SCAN_ROWS = 65_536
"""Rows scored at a time in a full scan, which bounds its memory."""
SCAN_MORE = 512
"""Rows looked at beyond those wanted, before all of them are: mostly enough may appear."""
SCAN_AT_ONCE_BELOW = 32_768
"""Below so many items a scan costs less than a second look."""
EXACT_BELOW = 200_000
"""Above so many items the second look is final: scanning takes too long."""
ROUNDING = 1e-5
"""What an index's inner product may differ from the exact one by."""

Beside = Callable[[int], Proposed]
"""Proposes so many rows by the parts beside the encoder's."""


def no_rows_beside(count: int) -> Proposed:
    """Propose nothing: no part beside the encoder's adds anything."""
    return Proposed(np.empty(0, np.int64), 0.0)


@dataclass(frozen=True, slots=True)
class Retriever:
    """The items of one kind, by their index."""

    opened: OpenBundle
    kind: Kind

    @property
    def rows(self) -> int:
        """How many items there are."""
        return self.opened.sizes[self.kind].rows

    def first_count(
        self, wanted: int, *, excluded: int, is_filtered: bool, margin: int = MARGIN
    ) -> int:
        """Say how many candidates to fetch so that mostly enough of them may appear."""
        return min(wanted * (2 if is_filtered else 1) + excluded + margin, self.rows)

    async def search(self, query_D: NDArray[np.float32], count: int) -> Candidates:
        """Ask the index for the rows nearest to one vector."""
        [found] = await self.opened.search(self.kind, query_D[None], [count])
        return found

    async def best(
        self,
        scorer: Scorer,
        wanted: int,
        allows: Allows,
        fetched: Candidates,
        beside: Beside = no_rows_beside,
    ) -> Ranked:
        """Rank the `wanted` best allowed rows by their whole score; fewer if fewer are allowed.

        With an exact index the answer is that of a full scan, ties included: it is taken from
        candidates only while no row left out of them can score as high as the last one taken.
        Above `EXACT_BELOW` items it is the best of two looks: comments of the same words tie by
        the thousand, and a strong prior leaves much open.

        Args:
            scorer: For one preference.
            fetched: What the index found for it; the first look.
            beside: The second retriever.
        """
        proposed = beside(len(fetched.row_N))
        ranked = _rank(scorer, allows, fetched, proposed)
        if _suffices(scorer, ranked, wanted, fetched, proposed):
            return ranked.take(slice(wanted))
        count = max(len(fetched.row_N), wanted) * WIDENING
        most = min(self.rows // 2, self.opened.sizes[self.kind].max_count)
        if self.rows >= SCAN_AT_ONCE_BELOW and count <= most:
            fetched = await self.search(scorer.preference_D, count)
            proposed = beside(count)
            ranked = _rank(scorer, allows, fetched, proposed)
            if _suffices(scorer, ranked, wanted, fetched, proposed):
                return ranked.take(slice(wanted))
        if len(ranked) >= wanted and self.rows > EXACT_BELOW:
            return ranked.take(slice(wanted))
        if self.rows < SCAN_AT_ONCE_BELOW:
            return _scan(scorer, wanted, allows)
        return await asyncio.to_thread(_scan, scorer, wanted, allows)  # others don't wait for it


def _rank(scorer: Scorer, allows: Allows, fetched: Candidates, proposed: Proposed) -> Ranked:
    row_N: Rows = fetched.row_N
    if len(proposed.row_N):
        row_N = np.union1d(row_N, proposed.row_N)
    return scorer.rank(row_N[allows(row_N)])


def _suffices(
    scorer: Scorer, ranked: Ranked, wanted: int, fetched: Candidates, proposed: Proposed
) -> bool:
    """Whether no row outside of both proposals can belong to the `wanted` best."""
    if wanted < 1 or fetched.floor == -np.inf:
        return True
    left_out = (fetched.floor + ROUNDING) / scorer.temperature + proposed.floor
    return len(ranked) >= wanted and float(ranked.score_K[wanted - 1]) > left_out


def _scan(scorer: Scorer, wanted: int, allows: Allows) -> Ranked:
    """Score everything roughly, then exactly what may be among the best, ties included."""
    rows = len(scorer.candidate_ND)
    best = scorer.rank(np.empty(0, np.int64))
    for start in range(1, rows, SCAN_ROWS):
        end = min(start + SCAN_ROWS, rows)
        score_N = scorer.rough_scores(start, end)
        worst = _worst_of_best(score_N, start, wanted, allows)
        row_N = np.flatnonzero(score_N >= worst - 2 * ROUNDING / scorer.temperature) + start
        row_N = np.append(best.row_K, row_N[allows(row_N)])
        best = scorer.rank(row_N).take(slice(wanted))
    return best


def _worst_of_best(
    score_N: NDArray[np.float64], first_row: int, wanted: int, allows: Allows
) -> float:
    """The lowest of the `wanted` highest allowed scores; -inf where fewer are allowed."""
    for count in (wanted + SCAN_MORE, len(score_N)):
        if count < len(score_N):
            top_N = np.argpartition(score_N, -count)[-count:]
        else:
            top_N = np.arange(len(score_N))
        top_N = top_N[allows(top_N + first_row)]
        if len(top_N) >= wanted:
            return float(np.partition(score_N[top_N], -wanted)[-wanted])
    return -np.inf
