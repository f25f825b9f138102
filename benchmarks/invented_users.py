"""Encoder inputs and stored histories of invented users, for any bundle.

Shape suffixes: U users, N video events, M comment events.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import Bundle
from lsvcr.catalogue import Catalogue, IdIndex
from lsvcr.history import HistoryBatch, Timelines
from service.engine.queries import EventHistory

DAY_MS = 86_400_000
NOW_MS = 20_600 * DAY_MS
FULL = 60
"""Events a side of somebody whose history is full, and some over."""


@dataclass(frozen=True)
class Events:
    """What invented users did: median 14 events a side, mean 22, a third of them 50 or more."""

    video_user_N: NDArray[np.int64]
    video_N: NDArray[np.int64]
    video_time_N: NDArray[np.int64]
    comment_user_M: NDArray[np.int64]
    comment_M: NDArray[np.int64]
    comment_time_M: NDArray[np.int64]


def invent_events(catalogue: Catalogue, users: int, seed: int = 2) -> Events:
    """Draw events of both sides; who watches much also comments much."""
    random = np.random.default_rng(seed)
    activity_U = random.lognormal(2.6, 1.6, users)
    video_U, comment_U = (
        np.clip(activity_U * random.lognormal(0, 0.3, users), 1, 60).astype(np.int64)
        for _ in range(2)
    )
    video_user_N, comment_user_M = (
        np.repeat(np.arange(users), count_U) for count_U in (video_U, comment_U)
    )
    return Events(
        video_user_N,
        random.integers(1, catalogue.video_count, len(video_user_N)),
        NOW_MS - random.integers(DAY_MS, 60 * DAY_MS, len(video_user_N)),
        comment_user_M,
        random.integers(1, catalogue.comment_count, len(comment_user_M)),
        NOW_MS - random.integers(DAY_MS, 60 * DAY_MS, len(comment_user_M)),
    )


def build_timelines(catalogue: Catalogue, events: Events, users: int, keep: int) -> Timelines:
    """Both sides of all users, as the encoder's inputs are made from them."""
    return Timelines.build(
        users=users,
        video_user_N=events.video_user_N,
        video_N=events.video_N,
        video_time_N=events.video_time_N,
        comment_user_C=events.comment_user_M,
        comment_C=events.comment_M,
        comment_video_C=catalogue.comment_video_C[events.comment_M],
        comment_time_C=events.comment_time_M,
        comments_per_event=keep,
    )


def invent_full_events(catalogue: Catalogue, users: int, seed: int = 3) -> Events:
    """Everybody has more events of both sides than the encoder reads."""
    random = np.random.default_rng(seed)
    user_N = np.repeat(np.arange(users), FULL)

    def draw(rows: int) -> tuple[np.ndarray, np.ndarray]:
        times = NOW_MS - random.integers(DAY_MS, 60 * DAY_MS, len(user_N))
        return random.integers(1, rows, len(user_N)), times

    return Events(user_N, *draw(catalogue.video_count), user_N, *draw(catalogue.comment_count))


def invent_histories(bundle: Bundle, users: int, *, full: bool) -> HistoryBatch:
    """The encoder's inputs of some users, with full histories or such as real users have."""
    draw = invent_full_events if full else invent_events
    timelines = build_timelines(
        bundle.catalogue, draw(bundle.catalogue, users), users, bundle.manifest.comments_per_event
    )
    return timelines.latest_windows(bundle.manifest.max_history)


def as_stored(catalogue: Catalogue, events: Events, users: int) -> list[EventHistory]:
    """What the store would give for each user."""
    hash_V = _hash_by_row(catalogue.video_index, catalogue.video_count)
    hash_C = _hash_by_row(catalogue.comment_index, catalogue.comment_count)
    videos = np.searchsorted(events.video_user_N, np.arange(users + 1))
    comments = np.searchsorted(events.comment_user_M, np.arange(users + 1))
    return [
        EventHistory(
            hash_V[events.video_N[v0:v1]],
            events.video_time_N[v0:v1],
            hash_C[events.comment_M[c0:c1]],
            events.comment_time_M[c0:c1],
        )
        for v0, v1, c0, c1 in zip(videos, videos[1:], comments, comments[1:], strict=False)
    ]


def _hash_by_row(index: IdIndex, rows: int) -> np.ndarray:
    hash_N = np.zeros(rows, np.uint64)
    hash_N[index.row_N] = index.sorted_hash_N
    return hash_N
