"""Maximal marginal relevance and caps, after retrieval.

Shape suffixes: N rows in order of relevance, K chosen, D width.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.queries import Diversity


@dataclass(frozen=True, slots=True)
class Caps:
    """At most so many videos of one author and of one category; unknown ones aren't capped."""

    author_N: NDArray[np.int32]
    category_N: NDArray[np.int32]
    max_per_author: int | None
    max_per_category: int | None


def choose_diverse(
    relevance_N: NDArray[np.floating],
    vector_ND: NDArray[np.float32],
    caps: Caps,
    *,
    count: int,
    lambda_: float,
    window: int,
) -> NDArray[np.intp]:
    """Choose up to `count` positions, one after the other.

    Within the first `window` positions each choice maximises
    lambda_ * relevance - (1 - lambda_) * (largest cosine to a chosen one), ties to the earlier;
    what is then missing comes from the rest in its order. Caps hold throughout.

    Args:
        relevance_N: In units of a cosine, descending.
        vector_ND: Unit vectors of the first `window` positions at least.

    Source:
        Carbonell and Goldstein, "The use of MMR" (SIGIR 1998).
    """
    groups = _Groups(caps)
    chosen: list[int] = []
    window = min(window, len(relevance_N))
    worth_N = lambda_ * relevance_N[:window].astype(np.float64)
    is_open_N = np.ones(window, np.bool_)
    closest_N = np.full(window, -np.inf)
    while len(chosen) < count and is_open_N.any():
        penalty_N = (1 - lambda_) * closest_N if chosen and lambda_ < 1 else 0.0
        best = int(np.argmax(np.where(is_open_N, worth_N - penalty_N, -np.inf)))
        is_open_N[best] = False
        if groups.admit(best):
            chosen.append(best)
            if lambda_ < 1:
                closest_N = np.maximum(closest_N, vector_ND[:window] @ vector_ND[best])
    for position in range(window, len(relevance_N)):
        if len(chosen) >= count:
            break
        if groups.admit(position):
            chosen.append(position)
    return np.array(chosen, np.intp)


class _Groups:
    """Counts what was admitted of each author and category."""

    def __init__(self, caps: Caps) -> None:
        self._sides = [
            (codes_N, most, Counter[int]())
            for codes_N, most in (
                (caps.author_N, caps.max_per_author),
                (caps.category_N, caps.max_per_category),
            )
            if most is not None
        ]

    def admit(self, position: int) -> bool:
        """Count a position in, unless one of its groups is full."""
        codes = [(int(codes_N[position]), most, count) for codes_N, most, count in self._sides]
        if any(code and count[code] >= most for code, most, count in codes):
            return False
        for code, _, count in codes:
            count[code] += 1
        return True


def diversity_window(k: int) -> int:
    """How many of the most relevant videos a diverse answer of `k` chooses from at first."""
    return max(5 * k, 100)


def is_diverse(diversity: Diversity | None) -> bool:
    """Whether a request asks for more than relevance."""
    return diversity is not None and diversity != Diversity()
