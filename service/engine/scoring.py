"""What an item's score is made of: the encoder's part and whatever stands beside it.

Shape suffixes: N rows to score, K rows in order, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lsvcr import loops

Rows = NDArray[np.integer[Any]]
Parts = dict[str, NDArray[np.float32]]
"""One value for each row, by the part's name; a row's score is the sum of its parts."""

KNOWN_PARTS = frozenset({"encoder", "prior", "repeat", "profile"})
"""What can be computed; a bundle that asks for more is refused."""


class Ranked(msgspec.Struct, frozen=True, eq=False):
    """Rows with their scores, best first.

    Attributes:
        row_K: Catalogue rows.
        parts: As `Parts`, in the order of `row_K`.
        score_K: The sum of the parts.
    """

    row_K: Rows
    parts: Parts
    score_K: NDArray[np.float64]

    @classmethod
    def of(cls, row_K: Rows, parts: Parts) -> "Ranked":
        """Rows that are in order already."""
        return cls(row_K, parts, sum_parts(parts, len(row_K)))

    @classmethod
    def by_score(cls, row_N: Rows, parts: Parts) -> "Ranked":
        """Order rows by score, descending, then by catalogue row."""
        scored = cls.of(row_N, parts)
        return scored.take(np.lexsort((row_N, -scored.score_K)))

    def take(self, positions: slice | NDArray[np.intp]) -> "Ranked":
        """Keep the rows at some positions, in the order given."""
        parts = {name: values[positions] for name, values in self.parts.items()}
        return Ranked(self.row_K[positions], parts, self.score_K[positions])

    def __len__(self) -> int:
        return len(self.row_K)


@dataclass(frozen=True, slots=True)
class Proposed:
    """Rows that the parts beside the encoder's propose.

    Attributes:
        row_N: Catalogue rows.
        floor: The most that those parts add to the score of any row left out; -inf if none was.
    """

    row_N: NDArray[np.int64]
    floor: float


def nothing_beside(row_N: Rows) -> Parts:
    """No part beside the encoder's."""
    return {}


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores the items of one kind for one user.

    Attributes:
        candidate_ND: Unit vectors by catalogue row.
        temperature: The encoder's part is cosine / temperature.
        preference_D: Unit vector.
        beside: Computes the other parts of some rows.
    """

    candidate_ND: NDArray[np.float32]
    temperature: float
    preference_D: NDArray[np.float32]
    beside: Callable[[Rows], Parts] = nothing_beside

    def rank(self, row_N: Rows) -> Ranked:
        """Score some rows and order them."""
        return Ranked.by_score(row_N, self.parts(row_N))

    def parts(self, row_N: Rows) -> Parts:
        """Compute every part of the score.

        Equal candidate vectors get equal scores whatever stands beside them.
        """
        start_B1 = np.array([0, len(row_N)])
        cosine_N = cosines(self.candidate_ND, row_N, self.preference_D[None], start_B1)
        return {"encoder": cosine_N / np.float32(self.temperature), **self.beside(row_N)}

    def rough_scores(self, first: int, end: int) -> NDArray[np.float64]:
        """Score the rows from `first` to before `end` fast, equal ones only nearly equally."""
        encoder_N = self.candidate_ND[first:end] @ self.preference_D / np.float32(self.temperature)
        parts = {"encoder": encoder_N, **self.beside(np.arange(first, end))}
        return sum_parts(parts, end - first)


def cosines(
    candidate_VD: NDArray[np.float32],
    row_N: Rows,
    preference_BD: NDArray[np.float32],
    start_B1: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Compare each query's preference with its rows, `start_B1[b]` to `[b + 1]`.

    Equal vectors get equal numbers, where a matrix product may sum the last rows of a block in
    another order.
    """
    rows, width = candidate_VD.shape
    cosine_N = np.empty(len(row_N), np.float32)
    loops.score_rows(
        rows,
        width,
        candidate_VD,
        np.ascontiguousarray(row_N, np.int64),
        len(preference_BD),
        np.ascontiguousarray(preference_BD),
        start_B1,
        cosine_N,
    )
    return cosine_N


def sum_parts(parts: Parts, rows: int) -> NDArray[np.float64]:
    """Add up the parts of each row's score."""
    return sum((values.astype(np.float64) for values in parts.values()), np.zeros(rows))
