"""Names the history entries that a recommendation rests on.

Shape suffixes: I and J slots of the video and comment side.
"""

import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import Catalogue
from service.engine.queries import Reason
from service.engine.users import EncodedHistory

MAX_REASONS = 3
MIN_SHARE = 0.001
"""Attention is never quite zero; less than this explains nothing."""


def explain_videos(encoded: EncodedHistory, catalogue: Catalogue) -> tuple[Reason, ...]:
    """Name the videos that a video preference attends to most: the same for all its videos."""
    shares = _largest(encoded.video_I, encoded.video_share_I)
    return tuple(Reason(video_id=catalogue.video_id[row], share=share) for row, share in shares)


def explain_comments(
    encoded: EncodedHistory, share_J: NDArray[np.float32], catalogue: Catalogue
) -> tuple[Reason, ...]:
    """Name the comments that one comment preference attends to most.

    Comments of one video that followed each other closely share a slot: its newest one stands
    for all of them.
    """
    newest_J = encoded.comment_JK[:, 0]
    shares = _largest(newest_J, share_J)
    return tuple(Reason(comment_id=catalogue.comment_id[row], share=share) for row, share in shares)


def _largest(row_S: NDArray[np.int32], share_S: NDArray[np.float32]) -> list[tuple[int, float]]:
    """Add up each row's shares, then take the largest, ties to the newer event."""
    total: dict[int, float] = {}
    for slot in np.flatnonzero(row_S)[::-1].tolist():
        row = int(row_S[slot])
        total[row] = total.get(row, 0.0) + float(share_S[slot])
    best = sorted(total.items(), key=lambda item: -item[1])[:MAX_REASONS]
    return [(row, min(share, 1.0)) for row, share in best if share >= MIN_SHARE]
