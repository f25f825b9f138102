"""Items by popularity: the answer for those of whom nothing is known.

Shape suffixes: N rows at hand, P popular rows, V video rows, C comment rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import PopularVideos
from lsvcr.catalogue import Catalogue
from service.engine.scoring import Ranked, Rows
from service.engine.video_conditions import Allows

FIRST_LOOK = 1024
WIDENING = 8


@dataclass(frozen=True, slots=True)
class PopularItems:
    """Every row of one kind once, most popular first.

    Attributes:
        part: What the score of a popular item is called.
        score_P: In the order of `row_P`, descending.
    """

    row_P: NDArray[np.int32]
    part: str
    score_P: NDArray[np.float32]

    @classmethod
    def by_place(cls, row_P: NDArray[np.int32]) -> "PopularItems":
        """Score rows by their place in an order: 1, 1/2, 1/3 and so on."""
        return cls(row_P, "popularity", _place_scores(np.arange(len(row_P))))

    @classmethod
    def of_videos(cls, popular: PopularVideos, rows: int) -> "PopularItems":
        """Take the overall list, then what categories add, then the rest in catalogue order."""
        rest_V = np.arange(1, rows, dtype=np.int32)
        row_P = np.concatenate([popular.overall_P, popular.by_category_Q, rest_V])
        place_P = np.arange(len(row_P))
        first_V = np.empty(rows, np.int64)
        first_V[row_P[::-1]] = place_P[::-1]  # the last one written stays
        return cls.by_place(row_P[first_V[row_P] == place_P])

    def deciles(self) -> NDArray[np.int8]:
        """Which tenth each row belongs to, by row: 1 the most popular; 0 for the padding row."""
        decile_N = np.zeros(len(self.row_P) + 1, np.int8)
        decile_N[self.row_P] = np.arange(len(self.row_P)) * 10 // len(self.row_P) + 1
        return decile_N

    def by_logit(self, part: str, logit_V: NDArray[np.float32]) -> "PopularItems":
        """Order the same rows by a part of the score; equal ones stay in this order."""
        logit_P = logit_V[self.row_P]
        order_P = np.argsort(-logit_P, kind="stable")
        return PopularItems(self.row_P[order_P], part, logit_P[order_P])

    def best(self, wanted: int, allows: Allows) -> Ranked:
        """Take the `wanted` most popular allowed rows; fewer only where fewer are allowed."""
        count = max(FIRST_LOOK, wanted)
        while True:
            position_N = np.flatnonzero(allows(self.row_P[:count]))
            if len(position_N) >= wanted or count >= len(self.row_P):
                position_N = position_N[:wanted]
                return Ranked(self.row_P[position_N], {self.part: self.score_P[position_N]})
            count *= WIDENING


@dataclass(frozen=True, slots=True)
class PopularComments:
    """Each video's best comment, popular videos first; then the second ones; and so on.

    The order is made while it is read, as of millions of comments only the first are ever asked
    for.

    Attributes:
        start_P: int64, each popular video's first comment row; a video's comments follow it.
        count_P: int64, how many there are.
    """

    start_P: NDArray[np.int64]
    count_P: NDArray[np.int64]

    @classmethod
    def of(cls, videos: PopularItems, catalogue: Catalogue) -> "PopularComments":
        """Take the comments of all videos, in their order."""
        start_P = catalogue.comment_start_V1[videos.row_P]
        return cls(start_P, catalogue.comment_start_V1[videos.row_P + 1] - start_P)

    def best(self, wanted: int, allows: Allows) -> Ranked:
        """Take the first `wanted` allowed comments; fewer only where fewer are allowed."""
        rows, places, found = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
        for row_N, place_N in self._in_order():
            is_allowed_N = allows(row_N)
            rows.append(row_N[is_allowed_N])
            places.append(place_N[is_allowed_N])
            found += int(np.count_nonzero(is_allowed_N))
            if found >= wanted:
                break
        place_K = np.concatenate(places)[:wanted]
        return Ranked(np.concatenate(rows)[:wanted], {"popularity": _place_scores(place_K)})

    def _in_order(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """All comments with their places, some at a time and more each time."""
        start_P, count_P = self.start_P, self.count_P
        level = passed = 0
        while len(start_P):
            has_one_P = count_P > level
            start_P, count_P = start_P[has_one_P], count_P[has_one_P]
            first, size = 0, FIRST_LOOK
            while first < len(start_P):
                row_N = start_P[first : first + size] + level
                yield row_N, passed + np.arange(first, first + len(row_N))
                first, size = first + size, size * WIDENING
            passed += len(start_P)
            level += 1


def popular_ranking(row_N: Rows, position_N: NDArray[np.integer]) -> Ranked:
    """Rank rows by their place in a popular order."""
    return Ranked.by_score(row_N, {"popularity": _place_scores(position_N)})


def _place_scores(place_N: NDArray[np.integer]) -> NDArray[np.float32]:
    return (1 / (place_N + 1)).astype(np.float32)
