"""Tables of what the items contribute, one row per video or comment of the catalogue.

Shape suffixes: V video rows, C comment rows, D model width, N rows of a chunk.

All that text does to an event is linear, so that an event is a sum of table rows: the text encoder
and its adapters aren't served.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.encoder import ItemVectors, ProfileSimilarity, Recommender
from training.scorers import forget_untrained_ids as forget_untrained_ids

CHUNK_ROWS = 16_384

FloatArray = NDArray[np.float32]


@torch.no_grad()
def build_tables(
    recommender: Recommender, popular_comment_V: NDArray[np.int32]
) -> dict[str, FloatArray]:
    """Compute the tables of a bundle (`lsvcr.bundle.TABLES`).

    Args:
        recommender: In evaluation mode, on the CPU.
        popular_comment_V: The comment shown with each video, 0 where it has none.

    Returns:
        float32, by table name. `video_input_VD` is a whole video event; a comment event is its
        row of `comment_video_input_VD` plus the mean of its comments' rows of `comment_input_CD`.
    """
    items = recommender.items
    popular_V = torch.from_numpy(popular_comment_V)

    def video_input(row_N: Tensor) -> Tensor:
        return items.video_ids(row_N) + items.video_event_text(row_N, popular_V[row_N])

    def comment_video_input(row_N: Tensor) -> Tensor:
        no_comment_N1 = torch.zeros(len(row_N), 1, dtype=torch.int64)
        return items.video_ids(row_N) + items.comment_event_text(row_N, no_comment_N1)

    videos, comments = len(items.title_VE), len(items.comment_CE)
    return {
        "video_input_VD": _by_chunk(video_input, videos),
        "comment_video_input_VD": _by_chunk(comment_video_input, videos),
        "comment_input_CD": _without_padding(_by_chunk(_comment_input(items), comments)),
        "video_query_VD": _without_padding(_by_chunk(items.video_queries, videos)),
        "video_candidate_VD": _without_padding(_by_chunk(recommender.video_candidates, videos)),
        "comment_candidate_CD": _without_padding(
            _by_chunk(recommender.comment_candidates, comments)
        ),
    }


@torch.no_grad()
def build_profile_table(profile: ProfileSimilarity) -> NDArray[np.float16]:
    """Projected features of every comment: what profiles are means of, (C, F).

    Projection is linear, so the mean of projected rows is the projected mean.
    """
    chunks = profile.feature_CF.split(CHUNK_ROWS)
    projected = [profile.project(feature_NF).half().numpy() for feature_NF in chunks]
    return np.concatenate(projected)


def query_norm(video_query_VD: FloatArray) -> float:
    """Mean length of a video's query vector; 1 where all of them are zero."""
    return float(np.linalg.norm(video_query_VD[1:], axis=1).mean()) or 1.0


def _comment_input(items: ItemVectors) -> Callable[[Tensor], Tensor]:
    """The half of the merge that reads comments, without its bias."""
    weight_DD = items.merge.weight[:, items.merge.out_features :]
    return lambda row_N: F.linear(items.comments(row_N), weight_DD)


def _by_chunk(vectors: Callable[[Tensor], Tensor], rows: int) -> FloatArray:
    chunks = torch.arange(rows).split(CHUNK_ROWS)
    return np.concatenate([vectors(row_N).float().numpy() for row_N in chunks])


def _without_padding(table_ND: FloatArray) -> FloatArray:
    table_ND[0] = 0
    return table_ND
