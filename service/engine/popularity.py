"""Items by popularity: the answer for those of whom nothing is known.

Shape suffixes: N rows at hand, P popular rows, V video rows, C comment rows.
"""

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
        _, first_P = np.unique(row_P, return_index=True)
        return cls.by_place(row_P[np.sort(first_P)])

    @classmethod
    def of_comments(cls, videos: "PopularItems", catalogue: Catalogue) -> "PopularItems":
        """Take each video's best comment, popular videos first; then the second ones; and so on."""
        position_V = np.zeros(catalogue.video_count, np.int32)
        position_V[videos.row_P] = np.arange(len(videos.row_P))
        row_C = np.arange(1, catalogue.comment_count)
        video_C = catalogue.comment_video_C[1:]
        place_C = row_C - catalogue.comment_start_V1[video_C]
        order_C = np.lexsort((position_V[video_C], place_C))
        return cls.by_place(row_C[order_C].astype(np.int32))

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


def popular_ranking(row_N: Rows, position_N: NDArray[np.integer]) -> Ranked:
    """Rank rows by their place in a popular order."""
    return Ranked.by_score(row_N, {"popularity": _place_scores(position_N)})


def _place_scores(place_N: NDArray[np.integer]) -> NDArray[np.float32]:
    return (1 / (place_N + 1)).astype(np.float32)
