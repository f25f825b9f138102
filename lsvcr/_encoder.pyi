"""What `_encoder.c` computes; contiguous arrays of exactly these types go in.

Errors as in `_loops.pyi`. Shape suffixes: W all weights, V video rows, C comment rows, B users, I
and J slots of the video and comment side, K comments of a slot, R rows, S as J or none, D width.
"""

import numpy as np
from numpy.typing import NDArray

def count_weights(
    width: int,
    heads: int,
    feedforward: int,
    layers: int,
    positions: int,
    is_post_norm: int,
    reads_input: int,
    mixes: int,
    pools: int,
    /,
) -> int:
    """How many numbers the weights of such an encoder are."""

def count_lanes() -> int:
    """How many numbers this processor can compute with at a time."""

def encode(
    width: int,
    heads: int,
    feedforward: int,
    layers: int,
    positions: int,
    is_post_norm: int,
    reads_input: int,
    mixes: int,
    pools: int,
    lanes: int,
    weight_W: NDArray[np.float32],
    videos: int,
    video_input_VD: NDArray[np.float32],
    comment_video_input_VD: NDArray[np.float32],
    comments: int,
    comment_input_CD: NDArray[np.float32],
    users: int,
    video_slots: int,
    comment_slots: int,
    comments_a_slot: int,
    video_BI: NDArray[np.int32],
    video_order_BI: NDArray[np.int32],
    video_cut_BI: NDArray[np.int32],
    comment_video_BJ: NDArray[np.int32],
    comment_BJK: NDArray[np.int32],
    comment_last_BJ: NDArray[np.int32],
    comment_cut_BJ: NDArray[np.int32],
    row_R: NDArray[np.int64],
    states: int,
    preference_BD: NDArray[np.float32],
    share_BI: NDArray[np.float32],
    state_BSD: NDArray[np.float32],
    /,
) -> None:
    """`Encoder.encode`, with at most `lanes` numbers at a time."""
