"""Whether the video index finds what an exact scan finds, for somebody who has just asked.

The export measured recall on the users of the training; those who ask now may differ.

Shape suffixes: V video rows, D width.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.engine import OpenBundle
from service.engine.retrieval import Retriever

CHECKED = 100
TOLERANCE = 1e-5
"""Of a score (cosine): equal videos may stand for one another, and sums round differently."""


@dataclass(frozen=True, slots=True)
class RecallCheck:
    """Of the best videos by exact score, how many the index found and how many it missed."""

    found: int
    missed: int


async def check_recall(opened: OpenBundle, preference_D: NDArray[np.float32]) -> RecallCheck:
    """Search once, for as many more as rankings do, and scan once, beside the loop.

    Some 40 ms of one core for a million videos.
    """
    candidate_VD = opened.bundle.tables["video_candidate_VD"]
    wanted = min(CHECKED, len(candidate_VD) - 1)
    count = Retriever(opened, "video").first_count(wanted, excluded=0, is_filtered=False)
    [candidates] = await opened.search("video", preference_D[None], [count])
    score_V = await asyncio.to_thread(np.matmul, candidate_VD[1:], preference_D)
    least = np.partition(score_V, -wanted)[-wanted] - TOLERANCE
    row_N = candidates.row_N[candidates.row_N > 0]
    found = min(wanted, int((score_V[row_N - 1] >= least).sum()))
    return RecallCheck(found, wanted - found)
