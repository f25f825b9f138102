"""A generated data set with real signal: try the system, and test that it learns.

Every video has a topic, a subject within it and a tone; so has every comment, its topic being its
video's. Titles and comments are worded accordingly. A user has a few liked topics, a current
subject that drifts, and a liked tone, and follows the same taste in videos and in comments, the
comments a little ahead: what someone likes under a video tells about the next video, and the
reverse.
"""

import numpy as np
import polars as pl

from lsvcr.errors import DataError
from training.dataset_folder import Dataset
from training.demo_behaviour import (
    DAY_MS,
    END_MS,
    SUBJECTS,
    VIDEO_EVENTS_PER_USER,
    IntArray,
    LatentCatalogue,
    LatentUsers,
    choose_comments,
    choose_videos,
    draw_catalogue,
    draw_users,
)
from training.demo_vocabulary import COMMENTS, TITLES, TOPICS


def build_demo_world(
    *,
    videos: int = 1000,
    comments: int = 4000,
    users: int = 600,
    seed: int = 0,
    end_ms: int = END_MS,
) -> Dataset:
    """Generate a data set over 60 days; equal arguments give equal data.

    Args:
        videos: About 8 % of them get no events.
        comments: More of them under popular videos.
        users: With some 40 video events and 25 comment events each; a few have far less.
        seed: Of everything random.
        end_ms: When the world's clock stops, in Unix milliseconds; moves every time alike.

    Raises:
        DataError: If there are fewer than 20 videos or not one comment or user.
    """
    if videos < 20 or comments < 1 or users < 1:
        raise DataError(
            "a demo world needs at least 20 videos, 1 comment and 1 user "
            f"(found {videos} videos, {comments} comments, {users} users)"
        )
    rng = np.random.default_rng(seed)
    catalogue = draw_catalogue(videos, comments, rng)
    people = draw_users(users, min(2 * VIDEO_EVENTS_PER_USER, videos // 2), rng)
    video_UE = choose_videos(catalogue, people, rng)
    comment_user_N, comment_N, comment_time_N = choose_comments(catalogue, people, video_UE, rng)
    later_ms = end_ms - END_MS
    return Dataset(
        videos=_video_table(catalogue, rng).with_columns(pl.col("published_at") + later_ms),
        comments=_comment_table(catalogue, users, rng).with_columns(
            pl.col("created_at") + later_ms
        ),
        video_events=_video_event_table(people, video_UE, rng).with_columns(
            pl.col("timestamp") + later_ms
        ),
        comment_events=_comment_event_table(
            comment_user_N, comment_N, comment_time_N, rng
        ).with_columns(pl.col("timestamp") + later_ms),
        source=f"demo world, seed {seed}",
    )


def midnight_before(now_ms: int) -> int:
    """The last midnight in UTC: a world that ends there knows all of yesterday."""
    return now_ms - now_ms % DAY_MS


def _video_table(catalogue: LatentCatalogue, rng: np.random.Generator) -> pl.DataFrame:
    topics = list(TOPICS)
    titles = _word(TITLES, catalogue.tone_V, catalogue.subject_V, rng)
    return pl.DataFrame(
        {
            "video_id": [f"v{number:05}" for number in range(len(titles))],
            "title": [title[0].upper() + title[1:] for title in titles],
            "category": [topics[topic] for topic in catalogue.topic_V],
            "author_id": [f"a{author:03}" for author in catalogue.author_V],
            "published_at": catalogue.published_V,
        }
    )


def _comment_table(
    catalogue: LatentCatalogue, users: int, rng: np.random.Generator
) -> pl.DataFrame:
    subject_C = catalogue.subject_V[catalogue.video_C]
    texts = _word(COMMENTS, catalogue.tone_C, subject_C, rng)
    return pl.DataFrame(
        {
            "comment_id": [f"c{number:06}" for number in range(len(texts))],
            "video_id": [f"v{number:05}" for number in catalogue.video_C],
            "text": texts,
            "author_id": [f"u{user:05}" for user in rng.integers(users, size=len(texts))],
            "created_at": catalogue.written_C,
            "likes": (4 * np.exp(catalogue.appeal_C)).astype(np.int64),
        }
    )


def _word(
    templates: dict[str, tuple[str, ...]],
    tone_I: IntArray,
    subject_I: IntArray,
    rng: np.random.Generator,
) -> list[str]:
    """Say each item's subject in its tone."""
    tones = list(templates.values())
    topics = list(TOPICS.values())
    choice_I3 = rng.integers(1 << 20, size=(len(tone_I), 3))
    texts = []
    for tone, subject, (which, detail, number) in zip(tone_I, subject_I, choice_I3, strict=True):
        subjects, details = topics[subject // SUBJECTS]
        texts.append(
            tones[tone][which % len(tones[tone])].format(
                subject=subjects[subject % SUBJECTS],
                detail=details[detail % len(details)],
                number=3 + number % 47,
            )
        )
    return texts


def _video_event_table(
    people: LatentUsers, video_UE: IntArray, rng: np.random.Generator
) -> pl.DataFrame:
    user_N, event_N = np.nonzero(people.is_event_UE)
    is_shared_N = rng.random(len(user_N)) < 0.05
    return pl.DataFrame(
        {
            "user_id": [f"u{user:05}" for user in user_N],
            "video_id": [f"v{video:05}" for video in video_UE[user_N, event_N]],
            "timestamp": people.time_UE[user_N, event_N],
            "type": np.where(is_shared_N, "video_share", "video_like").tolist(),
            "watch_time_ms": rng.integers(5_000, 180_000, size=len(user_N)),
        }
    )


def _comment_event_table(
    user_N: IntArray, comment_N: IntArray, time_N: IntArray, rng: np.random.Generator
) -> pl.DataFrame:
    is_reply_N = rng.random(len(user_N)) < 0.15
    return pl.DataFrame(
        {
            "user_id": [f"u{user:05}" for user in user_N],
            "comment_id": [f"c{comment:06}" for comment in comment_N],
            "timestamp": time_N,
            "type": np.where(is_reply_N, "comment_reply", "comment_like").tolist(),
        }
    )
