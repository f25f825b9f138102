"""A control that every evaluation runs: an answer drawn at random must be as hard as a guess.

Each held-out target is replaced by one that is drawn as its negatives are, wherever the target
stands: in the events, and with them in all that is computed from events. Target and negatives are
then exchangeable, so no model can tell them apart better than chance, whatever it has learned,
unless the answer reaches the question: through the history, the prior or the profile.

Shape suffixes: S samples, others as in `training.split`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import Catalogue
from training.split import Prepared, Split

CHECKED = {"video": "sampled", "comment": "thread"}
METRIC = "ndcg@10"
MOST_ERRORS = 4.0
"""Standard errors above chance that are no accident: one run in 30,000 would be."""

UserMetrics = Mapping[str, Mapping[str, Mapping[str, NDArray[np.float64]]]]


@dataclass(frozen=True)
class Control:
    """What a model reached on random targets, and what chance would.

    Attributes:
        errors: By how many standard errors the model lies above chance.
    """

    task: str
    ranking: str
    users: int
    reached: float
    chance: float
    errors: float

    @property
    def is_leak(self) -> bool:
        """Whether the model knows answers that nobody can know."""
        return self.errors > MOST_ERRORS


def compare_with_chance(reached: UserMetrics, chance: UserMetrics) -> list[Control]:
    """Compare every user's NDCG@10 on random targets with its expectation.

    Comments may lie a little below chance: the user's true comments are still there to be found.
    """
    controls = []
    for task, ranking in CHECKED.items():
        if task not in reached:
            continue
        reached_S, chance_S = (of[task][ranking][METRIC] for of in (reached, chance))
        above_S = reached_S - chance_S
        error = max(float(above_S.std()) / np.sqrt(len(above_S)), 1e-12)
        controls.append(
            Control(
                task=task,
                ranking=ranking,
                users=len(above_S),
                reached=float(reached_S.mean()),
                chance=float(chance_S.mean()),
                errors=float(above_S.mean()) / error,
            )
        )
    return controls


def with_random_targets(prepared: Prepared, split: Split, seed: int) -> Prepared:
    """Replace a split's targets, and the events that belong to them, by random ones.

    A video target becomes a uniformly drawn core video, and so do the user's comment events under
    the old one; their comments, and those of every comment target, become random ones under the
    event's video. A comment target whose new video has no comments is no target any more.
    """
    random = np.random.default_rng(seed)
    timelines, catalogue = prepared.timelines, prepared.catalogue
    target_T = prepared.video_targets(split)
    video_N = timelines.video_N.copy()
    video_N[target_T] = random.choice(np.flatnonzero(prepared.is_core_V), len(target_T))

    moved_M = _new_videos(prepared, target_T, video_N[target_T])
    comment_video_M = np.where(moved_M > 0, moved_M, timelines.comment_video_M).astype(np.int32)
    is_target_M = np.zeros(len(comment_video_M), bool)
    is_target_M[prepared.comment_targets(split)] = True
    own_comment_MP, comment_MK = prepared.own_comment_MP.copy(), timelines.comment_MK.copy()
    for event in np.flatnonzero(is_target_M | (moved_M > 0)):
        drawn = _draw_comments(
            catalogue, int(comment_video_M[event]), own_comment_MP[event], random
        )
        own_comment_MP[event] = drawn
        kept = (comment_MK[event] > 0) & (drawn[: comment_MK.shape[1]] > 0)
        comment_MK[event] = np.where(kept, drawn[: comment_MK.shape[1]], 0)
    held_out_M = prepared.comment_held_out_M.copy()
    held_out_M[is_target_M & (own_comment_MP == 0).all(1)] = -1
    return replace(
        prepared,
        timelines=replace(
            timelines, video_N=video_N, comment_video_M=comment_video_M, comment_MK=comment_MK
        ),
        own_comment_MP=own_comment_MP,
        comment_held_out_M=held_out_M,
    )


def _new_videos(
    prepared: Prepared, target_T: NDArray[np.int64], new_T: NDArray[np.int32]
) -> NDArray[np.int64]:
    """The new video of comment events under a replaced one; 0 where nothing is replaced."""
    videos = prepared.catalogue.video_count
    old_T = prepared.timelines.video_N[target_T]
    key_T = prepared.video_user_N[target_T] * videos + old_T
    key_M = prepared.comment_user_M * videos + prepared.timelines.comment_video_M
    order_T = np.argsort(key_T)
    place_M = np.minimum(np.searchsorted(key_T[order_T], key_M), max(0, len(key_T) - 1))
    if not len(key_T):
        return np.zeros(len(key_M), np.int64)
    found_M = order_T[place_M]
    return np.where(key_T[found_M] == key_M, new_T[found_M], 0)


def _draw_comments(
    catalogue: Catalogue, video: int, old_P: NDArray[np.int32], random: np.random.Generator
) -> NDArray[np.int32]:
    """As many different comments under a video as there were, or all; 0 fills up."""
    under = catalogue.comments_under(video)
    count = min(np.count_nonzero(old_P), len(under))
    drawn_P = np.zeros_like(old_P)
    drawn_P[:count] = random.choice(under, count, replace=False)
    return drawn_P
