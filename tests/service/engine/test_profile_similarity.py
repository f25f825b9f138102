"""Profiles of a batch, against the formula of docs/model.md one user at a time."""

import math

import numpy as np
import pytest

from lsvcr.bundle import ProfileEntry
from lsvcr.history import Timelines
from service.engine.profile_similarity import ProfileSimilarity

MINUTE_MS = 60_000
COMMENTED = [[3], [], [1, 4, 2], [], [5, 5]]
"""Comment rows by user; the last one twice, hours apart and under another video."""


def test_profiles_of_a_batch_are_each_users_own() -> None:
    table_CF = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    entry = ProfileEntry(events=50, scale=8.0, scale_by_count=0.5)
    profiles = ProfileSimilarity(table_CF, entry).profiles(*comment_events(COMMENTED))
    for profile, rows in zip(profiles, COMMENTED, strict=True):
        assert profile.scale == pytest.approx(8 + 0.5 * math.log1p(len(rows)))
        mean_F = table_CF[rows].mean(axis=0) if rows else np.zeros(8)
        length = np.linalg.norm(mean_F)
        expected_F = mean_F / length if rows else mean_F
        assert profile.direction_F == pytest.approx(expected_F, abs=1e-6)
        assert profile.direction_F.dtype == np.float32


def comment_events(commented: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Each comment under a video of its own, hours after the one before."""
    user_C = np.repeat(np.arange(len(commented)), [len(rows) for rows in commented])
    timelines = Timelines.build(
        users=len(commented),
        video_user_N=np.empty(0, np.int64),
        video_N=np.empty(0, np.int64),
        video_time_N=np.empty(0, np.int64),
        comment_user_C=user_C,
        comment_C=np.array([row for rows in commented for row in rows]),
        comment_video_C=np.arange(1, len(user_C) + 1),
        comment_time_C=np.arange(len(user_C)) * 300 * MINUTE_MS,
        comments_per_event=2,
    )
    return timelines.comment_MK, timelines.comment_start_U1
