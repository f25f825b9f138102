"""Who is asked what in an evaluation, with candidates that are fixed once.

Shape suffixes: S samples (one per user), N candidates.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lsvcr.catalogue import item_hash
from lsvcr.popularity import HOUR_MS
from training.batches import Targets
from training.config import RunConfig
from training.popularity_prior import log_counts
from training.split import Prepared, Split

POPULARITY_DAYS = 20.0
"""Half-life of the popularity that hard negatives are drawn by."""
RARE = 1e-3
"""What a video that nobody watched lately weighs, in events."""


@dataclass(frozen=True)
class Samples:
    """One split's targets and candidates, the same for every ranking that is evaluated.

    Attributes:
        videos, comments: The targets, one sample per user.
        negative_SN: int32 video rows that the sampled ranking adds to the target; 0 = none.
        popular_SN: The same, drawn by popularity at the time instead of uniformly.
        candidate_SN: int32 comment rows under the target video; 0 = none.
        is_own_SN: Which of them are the user's own: the positives.
    """

    prepared: Prepared
    videos: Targets
    comments: Targets
    negative_SN: NDArray[np.int32]
    popular_SN: NDArray[np.int32]
    candidate_SN: NDArray[np.int32]
    is_own_SN: NDArray[np.bool_]

    def seen(self, part: slice) -> NDArray[np.bool_]:
        """Videos in the whole history before each video target, (S, V)."""
        timelines = self.prepared.timelines
        user_S, cut_S = self.videos.user_T[part], self.videos.cut_T[part]
        is_seen_SV = np.zeros((len(user_S), self.prepared.catalogue.video_count), bool)
        for sample, (user, cut) in enumerate(zip(user_S, cut_S, strict=True)):
            events = slice(*timelines.video_start_U1[user : user + 2])
            is_past = timelines.video_order_N[events] < cut
            is_seen_SV[sample, timelines.video_N[events][is_past]] = True
        return is_seen_SV


def draw_samples(prepared: Prepared, config: RunConfig, split: Split) -> Samples:
    """A split's samples; each user's candidates depend on the user's id and the seed only."""
    videos = Targets.of_videos(prepared, prepared.video_targets(split))
    comments = Targets.of_comments(prepared, prepared.comment_targets(split))
    candidate_SN, is_own_SN = _draw_comments(comments, prepared, config)
    is_drawn_V = prepared.is_cold_V if split == "cold" else prepared.is_core_V
    return Samples(
        prepared=prepared,
        videos=videos,
        comments=comments,
        negative_SN=_draw_videos(videos, prepared, config, is_drawn_V),
        popular_SN=_draw_popular_videos(videos, prepared, config, is_drawn_V),
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


def _draw_popular_videos(
    targets: Targets, prepared: Prepared, config: RunConfig, is_drawn_V: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Negatives without repeats, each next one drawn in proportion to its popularity at the time.

    Popularity counts earlier hours' events, decayed by half in `POPULARITY_DAYS`, plus a little
    that is the same for all, so that there always are enough; without times, all training events.

    Source:
        The largest of log(weight) + Gumbel noise are such a draw (Efraimidis and Spirakis 2006).
    """
    video_N = np.flatnonzero(is_drawn_V).astype(np.int32)
    count = min(config.evaluate.sampled_negatives, len(video_N) - 1)
    popular_SN = np.zeros((len(targets.user_T), count), np.int32)
    for sample, weight_V in _popularity_of(targets, prepared):
        generator = _user_generator(prepared, config, targets.user_T[sample])
        key_N = np.log(weight_V[video_N] + RARE) + generator.gumbel(size=len(video_N))
        key_N[video_N == targets.video_T[sample]] = -np.inf
        popular_SN[sample] = video_N[np.argpartition(-key_N, count - 1)[:count]] if count else 0
    return popular_SN


def _popularity_of(
    targets: Targets, prepared: Prepared
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Each sample's number and every video's popularity at its time."""
    if not prepared.has_times:
        weight_V = prepared.training_events_V.astype(np.float64)
        yield from ((sample, weight_V) for sample in range(len(targets.user_T)))
        return
    hour_S = prepared.timelines.video_time_N[targets.event_T] // HOUR_MS
    hour_A, row_S = np.unique(hour_S, return_inverse=True)
    by_row_S = np.argsort(row_S, kind="stable")
    sorted_row_S = row_S[by_row_S]
    half_life = (POPULARITY_DAYS,)
    for rows, log_count_KVH in log_counts(prepared, half_life, hour_A, torch.device("cpu")):
        weight_KV = log_count_KVH[:, :, 0].expm1().numpy()
        first, last = np.searchsorted(sorted_row_S, (rows.start, rows.stop))
        for sample in by_row_S[first:last].tolist():
            yield sample, weight_KV[row_S[sample] - rows.start]


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
