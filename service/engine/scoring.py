"""What an item's score is made of: the one place where a part of the score is added.

Shape suffixes: N rows to score, K rows in order, D width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.integer[Any]]
Parts = dict[str, NDArray[np.float32]]
"""One value for each row, by the part's name; a row's score is the sum of its parts."""

KNOWN_PARTS = frozenset({"encoder"})
"""What `Scorer.parts` can compute; a bundle that asks for more is refused."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows with their scores, best first.

    Attributes:
        row_K: Catalogue rows.
        parts: As `Parts`, in the order of `row_K`.
    """

    row_K: Rows
    parts: Parts

    @staticmethod
    def by_score(row_N: Rows, parts: Parts) -> "Ranked":
        """Order rows by score, descending, then by catalogue row."""
        return Ranked(row_N, parts).take(np.lexsort((row_N, -sum_parts(parts, len(row_N)))))

    @property
    def score_K(self) -> NDArray[np.float64]:
        """The sum of the parts."""
        return sum_parts(self.parts, len(self.row_K))

    def take(self, positions: slice | NDArray[np.intp]) -> "Ranked":
        """Keep the rows at some positions, in the order given."""
        parts = {name: values[positions] for name, values in self.parts.items()}
        return Ranked(self.row_K[positions], parts)

    def __len__(self) -> int:
        return len(self.row_K)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores the items of one kind for one user's preference.

    Attributes:
        candidate_ND: Unit vectors by catalogue row.
        temperature: The encoder's part is cosine / temperature.
    """

    candidate_ND: NDArray[np.float32]
    temperature: float

    def rank(self, preference_D: NDArray[np.float32], row_N: Rows) -> Ranked:
        """Score some rows and order them."""
        return Ranked.by_score(row_N, self.parts(preference_D, row_N))

    def parts(self, preference_D: NDArray[np.float32], row_N: Rows) -> Parts:
        """Compute every part of the score.

        Equal candidate vectors get equal scores whatever stands beside them: `einsum` sums each
        row alike, where a matrix product may sum the last rows of a block in another order.

        Args:
            preference_D: One for all rows, or, as (N, D), one for each row.
            row_N: What to score.
        """
        candidate_ND = self.candidate_ND[row_N]
        preference_ND = np.broadcast_to(preference_D, candidate_ND.shape)
        cosine_N = np.einsum("nd,nd->n", candidate_ND, preference_ND)
        return {"encoder": cosine_N / np.float32(self.temperature)}


def sum_parts(parts: Parts, rows: int) -> NDArray[np.float64]:
    """Add up the parts of each row's score."""
    return sum((values.astype(np.float64) for values in parts.values()), np.zeros(rows))
