"""Items by popularity: the answer for those of whom nothing is known.

Shape suffixes: N rows at hand, P popular rows, Q rows of single categories, V video rows.
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


@dataclass(frozen=True, slots=True, eq=False)
class PopularItems:
    """Every row of one kind once, most popular first; scored 1, 1/2, 1/3 and so on.

    Attributes:
        place_V: int32, where each row stands in `row_P`; the padding row behind all.
    """

    row_P: NDArray[np.int32]
    place_V: NDArray[np.int32]

    @classmethod
    def of(cls, row_P: NDArray[np.int32]) -> "PopularItems":
        """Take all rows from 1 on, in some order."""
        return cls(row_P, places(row_P, len(row_P) + 1))

    @classmethod
    def of_videos(cls, popular: PopularVideos, rows: int) -> "PopularItems":
        """Take the overall list, then what categories add, then the rest in catalogue order."""
        is_left_V = np.ones(rows, np.bool_)
        is_left_V[0] = False
        is_left_V[popular.overall_P] = False
        added_Q = popular.by_category_Q[is_left_V[popular.by_category_Q]]
        is_left_V[added_Q] = False
        rest_N = np.flatnonzero(is_left_V).astype(np.int32)
        return cls.of(np.concatenate([popular.overall_P, added_Q, rest_N]))

    def deciles(self, row_N: Rows) -> NDArray[np.int64]:
        """Which tenth of all rows each one belongs to: 1 the most popular."""
        return self.place_V[row_N].astype(np.int64) * 10 // len(self.row_P) + 1

    def best(self, wanted: int, allows: Allows) -> Ranked:
        """Take the `wanted` most popular allowed rows; fewer only where fewer are allowed."""
        count = max(FIRST_LOOK, wanted)
        while True:
            position_N = np.flatnonzero(allows(self.row_P[:count]))
            if len(position_N) >= wanted or count >= len(self.row_P):
                position_N = position_N[:wanted]
                return Ranked.of(self.row_P[position_N], {"popularity": _place_scores(position_N)})
            count *= WIDENING


@dataclass(frozen=True, slots=True, eq=False)
class PopularComments:
    """Each video's best comment, popular videos first; then the second ones; and so on.

    The order is made while it is read, as of millions of comments only the first are ever asked
    for.

    Attributes:
        video_P: Videos' rows in their order.
        start_V1: Where each video's comments begin, and the one before's end.
    """

    video_P: NDArray[np.int32]
    start_V1: NDArray[np.int64]

    @classmethod
    def of(cls, videos: PopularItems, catalogue: Catalogue) -> "PopularComments":
        """Take the comments of all videos, in their order."""
        return cls(videos.row_P, catalogue.comment_start_V1)

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
        return Ranked.of(np.concatenate(rows)[:wanted], {"popularity": _place_scores(place_K)})

    def _in_order(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """All comments with their places, some at a time and more each time."""
        video_P = self.video_P
        level = passed = 0
        while len(video_P):
            with_one = []
            first, size = 0, FIRST_LOOK
            while first < len(video_P):
                video_N = video_P[first : first + size]
                row_N = self.start_V1[video_N] + level
                has_one_N = row_N < self.start_V1[video_N + 1]
                row_N = row_N[has_one_N]
                yield row_N, passed + np.arange(len(row_N))
                with_one.append(video_N[has_one_N])
                passed += len(row_N)
                first, size = first + size, size * WIDENING
            video_P = np.concatenate(with_one)
            level += 1


def places(row_P: Rows, rows: int) -> NDArray[np.int32]:
    """Where each of so many rows stands in a list, behind its end where it doesn't."""
    place_V = np.full(rows, len(row_P), np.int32)
    place_V[row_P] = np.arange(len(row_P), dtype=np.int32)
    return place_V


def popular_ranking(row_N: Rows, position_N: NDArray[np.integer]) -> Ranked:
    """Rank rows by their place in a popular order."""
    return Ranked.by_score(row_N, {"popularity": _place_scores(position_N)})


def _place_scores(place_N: NDArray[np.integer]) -> NDArray[np.float32]:
    return (1 / (place_N + 1)).astype(np.float32)
