"""Who is asked what in an evaluation, with candidates that are fixed once.

Shape suffixes: S samples (one per user), N candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import item_hash
from training.batches import Targets
from training.config import RunConfig
from training.split import Prepared, Split


@dataclass(frozen=True)
class Samples:
    """One split's targets and candidates, the same for every ranking that is evaluated.

    Attributes:
        videos, comments: The targets, one sample per user.
        negative_SN: int32 video rows that the sampled ranking adds to the target; 0 = none.
        candidate_SN: int32 comment rows under the target video; 0 = none.
        is_own_SN: Which of them are the user's own: the positives.
    """

    prepared: Prepared
    videos: Targets
    comments: Targets
    negative_SN: NDArray[np.int32]
    candidate_SN: NDArray[np.int32]
    is_own_SN: NDArray[np.bool_]


def draw_samples(prepared: Prepared, config: RunConfig, split: Split) -> Samples:
    """A split's samples; each user's candidates depend on the user's id and the seed only."""
    videos = Targets.of_videos(prepared, prepared.video_targets(split))
    comments = Targets.of_comments(prepared, prepared.comment_targets(split))
    candidate_SN, is_own_SN = _draw_comments(comments, prepared, config)
    return Samples(
        prepared=prepared,
        videos=videos,
        comments=comments,
        negative_SN=_draw_videos(
            videos,
            prepared,
            config,
            prepared.is_cold_V if split == "cold" else prepared.is_core_V,
        ),
        candidate_SN=candidate_SN,
        is_own_SN=is_own_SN,
    )


def _draw_videos(
    targets: Targets, prepared: Prepared, config: RunConfig, is_drawn_V: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Uniform negatives among some videos, without repeats and without the target."""
    video_N = np.flatnonzero(is_drawn_V).astype(np.int32)
    count = min(config.evaluate.sampled_negatives, len(video_N) - 1)
    negative_SN = np.zeros((len(targets.user_T), count), np.int32)
    for sample, (user, video) in enumerate(zip(targets.user_T, targets.video_T, strict=True)):
        generator = _user_generator(prepared, config, user)
        drawn_N = video_N[generator.choice(len(video_N), count + 1, replace=False)]
        negative_SN[sample] = drawn_N[drawn_N != video][:count]
    return negative_SN


def _draw_comments(
    targets: Targets, prepared: Prepared, config: RunConfig
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """All comments under the target video; of more than the limit, the own and random others."""
    most = config.evaluate.comment_candidates
    shape = (len(targets.user_T), most)
    candidate_SN, is_own_SN = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for sample, (user, video) in enumerate(zip(targets.user_T, targets.video_T, strict=True)):
        comments = prepared.catalogue.comments_under(int(video))
        is_own = np.isin(comments, targets.own_comment_TP[sample])
        own, others = comments[is_own], comments[~is_own]
        if len(comments) > most:
            generator = _user_generator(prepared, config, user)
            others = generator.choice(others, max(0, most - len(own)), replace=False)
        chosen = np.concatenate([own, others])[:most]
        candidate_SN[sample, : len(chosen)] = chosen
        is_own_SN[sample, : len(own)] = True
    return candidate_SN, is_own_SN


def _user_generator(prepared: Prepared, config: RunConfig, user: int) -> np.random.Generator:
    """Depends on the user's id, so that a sample of users keeps each one's candidates."""
    return np.random.default_rng([config.evaluate.seed, item_hash(prepared.user_ids[user])])
