"""What happens in the demo world, in numbers: its items, its users' tastes, and who likes what.

Shape suffixes: U users, V videos, C comments, T topics, S tones, E events of one user, N events,
A users active at one event, K comments under one video.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.demo_vocabulary import TITLES, TOPICS

END_MS = 1_764_547_200_000
"""1 December 2025, when the demo world's clock stops unless it is asked to stop elsewhere."""
DAY_MS = 86_400_000
MINUTE_MS = 60_000
DAYS = 60
VIDEO_EVENTS_PER_USER = 40
COMMENT_EVENTS_PER_USER = 25
COLD_SHARE = 0.08
SUBJECTS = 6

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class LatentCatalogue:
    """What the words of the catalogue were made from.

    Attributes:
        topic_V, subject_V, tone_V: Of videos; `subject_V` counts over all topics.
        appeal_V: Log popularity; falls with the rank as in Zipf's law.
        is_cold_V: Videos that get no events.
        published_V: Unix milliseconds.
        author_V: Number of the author.
        video_C, tone_C, appeal_C, written_C: Of comments; `written_C` in Unix milliseconds.
    """

    topic_V: IntArray
    subject_V: IntArray
    tone_V: IntArray
    appeal_V: FloatArray
    is_cold_V: NDArray[np.bool_]
    published_V: IntArray
    author_V: IntArray
    video_C: IntArray
    tone_C: IntArray
    appeal_C: FloatArray
    written_C: IntArray


@dataclass(frozen=True)
class LatentUsers:
    """What users do and like, by their event number.

    Attributes:
        time_UE: Unix milliseconds, ascending.
        is_event_UE: Which positions hold an event; the first ones of each user.
        subject_UE: The subject a user is after; its topic is `subject // SUBJECTS`.
        tone_UE: The tone liked best.
    """

    time_UE: IntArray
    is_event_UE: NDArray[np.bool_]
    subject_UE: IntArray
    tone_UE: IntArray


def draw_catalogue(videos: int, comments: int, rng: np.random.Generator) -> LatentCatalogue:
    """Draw what videos and comments are about, how they sound and how popular they are."""
    subject_V = rng.integers(len(TOPICS) * SUBJECTS, size=videos)
    topic_V = subject_V // SUBJECTS
    appeal_V = (-0.8 * np.log1p(rng.permutation(videos))).astype(np.float32)
    appeal_V -= appeal_V.mean()
    # Authors keep to a topic: five for each, one of them much busier than the rest.
    author_V = topic_V * 5 + np.minimum(rng.geometric(0.45, size=videos) - 1, 4)
    published_V = END_MS - (rng.beta(1, 1.6, size=videos) * (DAYS + 60) * DAY_MS).astype(np.int64)
    weight_V = np.exp(0.6 * appeal_V)
    video_C = np.sort(rng.choice(videos, size=comments, p=weight_V / weight_V.sum()))
    tones = len(TITLES)
    tone_V = rng.integers(tones, size=videos)
    is_as_video_C = rng.random(comments) < 0.3
    age_C = END_MS - published_V[video_C]
    return LatentCatalogue(
        topic_V=topic_V,
        subject_V=subject_V,
        tone_V=tone_V,
        appeal_V=appeal_V,
        is_cold_V=rng.permutation(videos) < round(COLD_SHARE * videos),
        published_V=published_V,
        author_V=author_V,
        video_C=video_C,
        tone_C=np.where(is_as_video_C, tone_V[video_C], rng.integers(tones, size=comments)),
        appeal_C=rng.gumbel(0, 0.7, size=comments).astype(np.float32),
        written_C=END_MS - (age_C * (1 - rng.beta(1, 9, size=comments))).astype(np.int64),
    )


def draw_users(users: int, most_events: int, rng: np.random.Generator) -> LatentUsers:
    """Draw when users are active and how their taste drifts."""
    count_U = rng.gamma(5, VIDEO_EVENTS_PER_USER / 5, size=users).astype(np.int64)
    count_U[rng.random(users) < 0.04] = 1  # some only ever looked in
    count_U = np.clip(count_U, 1, most_events)
    is_event_UE = np.arange(most_events) < count_U[:, None]

    topics, tones = len(TOPICS), len(TITLES)
    liked_U3 = rng.random((users, topics)).argsort(axis=1)[:, :3]
    subject_UE = np.empty((users, most_events), np.int64)
    tone_UE = np.empty((users, most_events), np.int64)
    for event in range(most_events):
        # A visit stays with a subject for a while, then turns to another of the liked topics.
        turns_U = rng.random(users) < (0.18 if event else 1)
        topic_U = liked_U3[np.arange(users), rng.choice(3, size=users, p=[0.5, 0.3, 0.2])]
        fresh_U = topic_U * SUBJECTS + rng.integers(SUBJECTS, size=users)
        subject_UE[:, event] = np.where(turns_U, fresh_U, subject_UE[:, event - 1])
        changes_U = rng.random(users) < (0.02 if event else 1)
        tone_UE[:, event] = np.where(
            changes_U, rng.integers(tones, size=users), tone_UE[:, event - 1]
        )
    return LatentUsers(_event_times(count_U, is_event_UE, rng), is_event_UE, subject_UE, tone_UE)


def _event_times(
    count_U: IntArray, is_event_UE: NDArray[np.bool_], rng: np.random.Generator
) -> IntArray:
    """Spread events over visits of about four, minutes apart, from a user's first day on."""
    users, most_events = is_event_UE.shape
    first_day_U = rng.random(users) * (DAYS / 2)
    visit_UE = rng.random((users, most_events // 4 + 1)).repeat(4, axis=1)[:, :most_events]
    day_UE = first_day_U[:, None] + visit_UE * (DAYS - 0.1 - first_day_U[:, None])
    minute_UE = rng.integers(2, 9, size=(users, most_events)).cumsum(axis=1) % 97
    time_UE = END_MS + ((day_UE - DAYS) * DAY_MS).astype(np.int64) + minute_UE * MINUTE_MS
    return np.sort(np.where(is_event_UE, time_UE, END_MS + DAY_MS), axis=1)


def choose_videos(
    catalogue: LatentCatalogue, people: LatentUsers, rng: np.random.Generator
) -> IntArray:
    """Let each user choose a video at each event, none twice; -1 where there is no event."""
    users, most_events = people.is_event_UE.shape
    seen_UV = np.broadcast_to(catalogue.is_cold_V, (users, len(catalogue.topic_V))).copy()
    video_UE = np.full((users, most_events), -1)
    for event in range(most_events):
        active = np.flatnonzero(people.is_event_UE[:, event])
        subject_A1 = people.subject_UE[active, event, None]
        age_AV = people.time_UE[active, event, None] - catalogue.published_V
        score_AV = catalogue.appeal_V + rng.gumbel(size=age_AV.shape).astype(np.float32)
        score_AV += 2.0 * np.exp2(-np.maximum(age_AV, 0) / (10 * DAY_MS))  # half-life 10 days
        score_AV += 3.0 * (catalogue.topic_V == subject_A1 // SUBJECTS)
        score_AV += 2.0 * (catalogue.subject_V == subject_A1)
        score_AV += 2.0 * (catalogue.tone_V == people.tone_UE[active, event, None])
        score_AV -= 100.0 * (age_AV < 0)  # nothing is out yet: then the first to come
        score_AV[seen_UV[active]] = -np.inf
        video_UE[active, event] = score_AV.argmax(axis=1)
        seen_UV[active, video_UE[active, event]] = True
    return video_UE


def choose_comments(
    catalogue: LatentCatalogue, people: LatentUsers, video_UE: IntArray, rng: np.random.Generator
) -> tuple[IntArray, IntArray, IntArray]:
    """Let users like comments under the video just watched, or one of their next subject.

    Returns:
        User, comment and time of each event; no comment twice by one user.
    """
    users, events = np.nonzero(people.is_event_UE)
    picked_N = rng.random(len(users)) < 1.3 * COMMENT_EVENTS_PER_USER / VIDEO_EVENTS_PER_USER
    user_N, event_N = users[picked_N], events[picked_N]
    # Browsing threads of the next subject, before the first video of it: comments run ahead.
    next_N = np.minimum(event_N + 1, people.is_event_UE[user_N].sum(axis=1) - 1)
    subject_N = people.subject_UE[user_N, next_N]
    is_ahead_N = (subject_N != people.subject_UE[user_N, event_N]) | (rng.random(len(user_N)) < 0.2)
    video_N = np.where(
        is_ahead_N, _popular_by_subject(catalogue, subject_N, rng), video_UE[user_N, event_N]
    )
    start_V = np.searchsorted(catalogue.video_C, np.arange(len(catalogue.topic_V) + 1))
    time_N = people.time_UE[user_N, event_N] + rng.integers(20, 100, size=len(user_N)) * 1000
    comment_NK = start_V[video_N][:, None] + np.arange(np.diff(start_V).max())
    is_there_NK = comment_NK < start_V[video_N + 1][:, None]
    comment_NK = np.minimum(comment_NK, len(catalogue.video_C) - 1)
    is_there_NK &= catalogue.written_C[comment_NK] <= time_N[:, None]
    score_NK = catalogue.appeal_C[comment_NK] + rng.gumbel(size=comment_NK.shape)
    score_NK += 3.0 * (catalogue.tone_C[comment_NK] == people.tone_UE[user_N, next_N][:, None])
    score_NK[~is_there_NK] = -np.inf
    comment_N = comment_NK[np.arange(len(user_N)), score_NK.argmax(axis=1)]
    _, first_N = np.unique(user_N * len(catalogue.video_C) + comment_N, return_index=True)
    kept_N = np.sort(first_N[is_there_NK[first_N].any(axis=1)])
    return user_N[kept_N], comment_N[kept_N], time_N[kept_N]


def _popular_by_subject(
    catalogue: LatentCatalogue, subject_N: IntArray, rng: np.random.Generator
) -> IntArray:
    """Draw a video of each subject by its popularity, cold ones excepted."""
    score_VN = np.where(catalogue.is_cold_V, -1e6, catalogue.appeal_V)[:, None]
    subjects = np.unique(subject_N)
    is_other_VS = catalogue.subject_V[:, None] != subjects
    weight_VS = np.exp(np.where(is_other_VS, score_VN - 30, score_VN))
    cumulative_VS = np.cumsum(weight_VS, axis=0) / weight_VS.sum(axis=0)
    video_N = np.empty_like(subject_N)
    for column, subject in enumerate(subjects):
        chosen = subject_N == subject
        video_N[chosen] = np.searchsorted(cumulative_VS[:, column], rng.random(chosen.sum()))
    return np.minimum(video_N, len(catalogue.topic_V) - 1)
