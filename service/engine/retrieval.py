"""Finds the best allowed items: over-fetch from the index, widen, then scan everything.

Shape suffixes: N rows at hand, D width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.candidate_index import CandidateIndex, Candidates
from service.engine.scoring import Ranked, Rows, Scorer
from service.engine.video_conditions import Allows

MARGIN = 32
"""Candidates fetched beyond those that are surely needed."""
WIDENING = 8
SCAN_ROWS = 65_536
"""Rows scored at a time in a full scan, which bounds its memory."""
EXACT_TIES_BELOW = 200_000
"""Above so many items, the second look breaks ties that reach beyond it: scanning takes seconds."""
ROUNDING = 1e-5
"""What an index's inner product may differ from the exact one by."""


@dataclass(frozen=True, slots=True)
class Retriever:
    """The items of one kind: their index and their exact scores."""

    index: CandidateIndex
    scorer: Scorer

    def first_count(self, wanted: int, *, excluded: int, is_filtered: bool) -> int:
        """Say how many candidates to fetch so that mostly enough of them may appear."""
        return min(wanted * (2 if is_filtered else 1) + excluded + MARGIN, self.index.size)

    def best(
        self,
        preference_D: NDArray[np.float32],
        wanted: int,
        allows: Allows,
        fetched: Candidates,
    ) -> Ranked:
        """Rank the `wanted` best allowed rows; fewer only where fewer are allowed.

        With an exact index the answer is that of a full scan, ties included: it is taken from
        candidates only while no row left out of them can score as high as the last one taken.
        Comments of the same words tie by the thousand, hence the limit `EXACT_TIES_BELOW`.

        Args:
            preference_D: Unit vector.
            fetched: What the index found for `preference_D`; the first look.
        """
        ranked = self._rank(preference_D, fetched.row_N, allows)
        if self._suffices(ranked, wanted, fetched):
            return ranked.take(slice(wanted))
        count = max(len(fetched.row_N), wanted) * WIDENING
        if count <= min(self.index.size // 2, self.index.max_count):
            [fetched] = self.index.search(preference_D[None], [count])
            ranked = self._rank(preference_D, fetched.row_N, allows)
            if self._suffices(ranked, wanted, fetched):
                return ranked.take(slice(wanted))
        if len(ranked) >= wanted and self.index.size > EXACT_TIES_BELOW:
            return ranked.take(slice(wanted))
        return self._scan(preference_D, wanted, allows)

    def _rank(self, preference_D: NDArray[np.float32], row_N: Rows, allows: Allows) -> Ranked:
        return self.scorer.rank(preference_D, row_N[allows(row_N)])

    def _suffices(self, ranked: Ranked, wanted: int, fetched: Candidates) -> bool:
        if wanted < 1 or fetched.floor == -np.inf:
            return True
        if len(ranked) < wanted:
            return False
        last_cosine = float(ranked.parts["encoder"][wanted - 1]) * self.scorer.temperature
        return last_cosine > fetched.floor + ROUNDING

    def _scan(self, preference_D: NDArray[np.float32], wanted: int, allows: Allows) -> Ranked:
        rows = len(self.scorer.candidate_ND)
        best = self.scorer.rank(preference_D, np.empty(0, np.int64))
        for start in range(1, rows, SCAN_ROWS):
            row_N = np.arange(start, min(start + SCAN_ROWS, rows))
            chunk = self._rank(preference_D, row_N, allows).take(slice(wanted))
            parts = {name: np.append(best.parts[name], chunk.parts[name]) for name in best.parts}
            best = Ranked.by_score(np.append(best.row_K, chunk.row_K), parts).take(slice(wanted))
        return best
