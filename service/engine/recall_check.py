"""Whether the video index finds what an exact scan finds, for somebody who has just asked.

The export measured recall on the users of the training; those who ask now may differ.

Shape suffixes: V video rows, N some of them, K the best, D width.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.engine import OpenBundle
from service.engine.retrieval import Retriever

CHECKED = 100
AT_ONCE = 1 << 13
PAUSE_S = 0.01
"""Videos that are scanned together, and the time that all else has for itself between them: a scan
in one go takes memory, and where its pages are new the kernel, from every process of a machine."""
TOLERANCE = 1e-5
"""Of a score (cosine): equal videos may stand for one another, and sums round differently."""


@dataclass(frozen=True, slots=True)
class RecallCheck:
    """Of the best videos by exact score, how many the index found and how many it missed."""

    found: int
    missed: int


async def check_recall(opened: OpenBundle, preference_D: NDArray[np.float32]) -> RecallCheck:
    """Search once, for as many more as rankings do, and scan once, beside the loop, piece by piece.

    Some 20 ms of one core for a million videos, within two seconds.
    """
    candidate_VD = opened.bundle.tables["video_candidate_VD"]
    wanted = min(CHECKED, len(candidate_VD) - 1)
    count = Retriever(opened, "video").first_count(wanted, excluded=0, is_filtered=False)
    [candidates] = await opened.search("video", preference_D[None], [count])
    least = await _least_of_best(candidate_VD, preference_D, wanted) - TOLERANCE
    score_N = candidate_VD[candidates.row_N[candidates.row_N > 0]] @ preference_D
    found = min(wanted, int((score_N >= least).sum()))
    return RecallCheck(found, wanted - found)


async def _least_of_best(
    candidate_VD: NDArray[np.float32], preference_D: NDArray[np.float32], wanted: int
) -> float:
    best_K = np.empty(0, np.float32)

    def scan(candidate_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        score_N = np.concatenate([best_K, candidate_ND @ preference_D])
        return score_N if len(score_N) <= wanted else np.partition(score_N, -wanted)[-wanted:]

    for start in range(1, len(candidate_VD), AT_ONCE):
        best_K = await asyncio.to_thread(scan, candidate_VD[start : start + AT_ONCE])
        await asyncio.sleep(PAUSE_S)
    return float(best_K.min(initial=np.inf))
