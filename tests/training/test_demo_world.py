import numpy as np
import polars as pl
import pytest

from lsvcr.errors import DataError
from training.dataset_folder import fingerprint, load_dataset, write_dataset
from training.demo_behaviour import DAY_MS, END_MS, draw_catalogue
from training.demo_world import build_demo_world, midnight_before

SEED = 7


@pytest.fixture(scope="module")
def world():
    return build_demo_world(seed=SEED)


@pytest.fixture(scope="module")
def latent():
    """The catalogue is the first thing drawn, so the same seed gives the world's own."""
    return draw_catalogue(1000, 4000, np.random.default_rng(SEED))


@pytest.fixture(scope="module")
def events(world):
    """Video events with the video's number, in the order of each user's time."""
    number = pl.col("video_id").str.slice(1).cast(pl.Int64).alias("video")
    return world.video_events.sort("user_id", "timestamp").with_columns(number)


@pytest.fixture(scope="module")
def comment_events(world):
    number = pl.col("comment_id").str.slice(1).cast(pl.Int64).alias("comment")
    return world.comment_events.sort("user_id", "timestamp").with_columns(number)


def hit_rate(events: pl.DataFrame, score_UV: np.ndarray) -> float:
    """Share of users whose last video is among the best 50 of 1,000; ties count against."""
    targets = events.group_by("user_id", maintain_order=True).last()["video"].to_numpy()
    target_U1 = score_UV[np.arange(len(targets)), targets][:, None]
    return float(((score_UV >= target_U1).sum(axis=1) <= 50).mean())


def popularity(events: pl.DataFrame) -> np.ndarray:
    earlier = events.filter(pl.int_range(pl.len()).over("user_id") < pl.len().over("user_id") - 1)
    return np.bincount(earlier["video"], minlength=1000)


def test_equal_seeds_give_equal_worlds_and_others_do_not():
    small = {"videos": 60, "comments": 90, "users": 20}
    assert fingerprint(build_demo_world(**small, seed=1)) == fingerprint(
        build_demo_world(**small, seed=1)
    )
    assert fingerprint(build_demo_world(**small, seed=1)) != fingerprint(
        build_demo_world(**small, seed=2)
    )


def test_another_end_moves_all_times_alike():
    small = {"videos": 60, "comments": 90, "users": 20, "seed": 1}
    end_ms = midnight_before(1_800_000_000_123)
    assert (end_ms % DAY_MS, 1_800_000_000_123 - end_ms < DAY_MS) == (0, True)
    here, there = build_demo_world(**small), build_demo_world(**small, end_ms=end_ms)
    for table, column in (
        ("videos", "published_at"),
        ("comments", "created_at"),
        ("video_events", "timestamp"),
        ("comment_events", "timestamp"),
    ):
        before, after = getattr(here, table), getattr(there, table)
        assert set(after[column] - before[column]) == {end_ms - END_MS}
        assert after[column].max() < end_ms
        assert after.drop(column).equals(before.drop(column))


def test_the_world_passes_the_checks_of_a_dataset_folder(world, tmp_path):
    write_dataset(world, tmp_path / "demo")
    assert fingerprint(load_dataset(tmp_path / "demo")) == fingerprint(world)
    assert 35 <= len(world.video_events) / 600 <= 45
    assert 20 <= len(world.comment_events) / 600 <= 30


def test_texts_are_short_and_varied(world):
    words = world.videos["title"].str.split(" ").list.len()
    assert words.min() >= 4
    assert words.max() <= 10
    words = world.comments["text"].str.split(" ").list.len()
    assert words.min() >= 4
    assert words.max() <= 14
    assert world.videos["title"].n_unique() > 800


def test_popularity_is_skewed(world):
    counts = world.video_events["video_id"].value_counts(sort=True)["count"]
    assert counts.head(100).sum() > 0.35 * counts.sum()
    threads = world.comments["video_id"].value_counts(sort=True)["count"]
    assert threads[0] > 20


def test_part_of_the_catalogue_is_cold(world):
    cold = world.videos.join(world.video_events, on="video_id", how="anti")
    assert 0.07 <= len(cold) / len(world.videos) <= 0.12


def test_nothing_is_commented_on_before_it_is_written_or_watched_before_it_is_out(world):
    liked = world.comment_events.join(world.comments, on="comment_id")
    assert (liked["timestamp"] >= liked["created_at"]).all()
    watched = world.video_events.join(world.videos, on="video_id")
    assert (watched["timestamp"] >= watched["published_at"]).all()


def test_nobody_likes_a_video_or_a_comment_twice(world):
    assert not world.video_events.select("user_id", "video_id").is_duplicated().any()
    assert not world.comment_events.select("user_id", "comment_id").is_duplicated().any()


def test_recent_videos_foretell_the_next_one_better_than_popularity(events, latent):
    popular_V = np.log1p(popularity(events))
    users = events.group_by("user_id", maintain_order=True).agg("video")["video"].to_list()
    score_UV = np.empty((len(users), 1000))
    for user, videos in enumerate(users):
        recent = np.array(videos[-6:-1], dtype=int)
        same_topic_V = (latent.topic_V[:, None] == latent.topic_V[recent]).sum(axis=1)
        same_tone_V = (latent.tone_V[:, None] == latent.tone_V[recent]).sum(axis=1)
        score_UV[user] = popular_V + same_topic_V + 0.5 * same_tone_V
    by_popularity = hit_rate(events, np.tile(popular_V, (len(users), 1)))
    assert hit_rate(events, score_UV) > 1.5 * by_popularity


def test_the_last_comment_alone_foretells_the_next_video(events, comment_events, latent):
    """Topic and tone of the comment liked last before the target, against popularity alone."""
    targets = events.group_by("user_id", maintain_order=True).last()
    last = targets.sort("timestamp").join_asof(
        comment_events.sort("timestamp"), on="timestamp", by="user_id", check_sortedness=False
    )
    comment_U = targets.join(last.select("user_id", "comment"), on="user_id", maintain_order="left")
    popular_V = np.log1p(popularity(events))
    plain_UV = np.tile(popular_V, (len(targets), 1))
    score_UV = plain_UV.copy()
    for user, comment in enumerate(comment_U["comment"]):
        if comment is not None:
            subject = latent.subject_V[latent.video_C[comment]]
            score_UV[user] += 2 * (latent.topic_V == subject // 6)
            score_UV[user] += latent.subject_V == subject
            score_UV[user] += latent.tone_V == latent.tone_C[comment]
    assert hit_rate(events, score_UV) > 1.5 * hit_rate(events, plain_UV)


def test_the_tone_of_liked_videos_foretells_the_liked_comment(events, comment_events, latent):
    """Among comments of one thread, those in the tone of the user's videos are liked more often."""
    tone = pl.Series(latent.tone_V)
    favourite = (
        events.with_columns(tone=tone.gather(events["video"]))
        .group_by("user_id")
        .agg(pl.col("tone").mode().sort().first())
    )
    joined = comment_events.join(favourite, on="user_id")
    matches = latent.tone_C[joined["comment"]] == joined["tone"].to_numpy()
    assert matches.mean() > 2 / 6  # by chance one in six


def test_taste_drifts(events, latent):
    topics = pl.Series(latent.topic_V).gather(events["video"])
    per_user = events.with_columns(topic=topics).group_by("user_id").agg(pl.col("topic"))
    enough = per_user.filter(pl.col("topic").list.len() >= 30)
    near, far = [], []
    for topic_E in enough["topic"].to_list():
        topic_E = np.array(topic_E)
        near.append((topic_E[1:] == topic_E[:-1]).mean())
        far.append((topic_E[15:] == topic_E[:-15]).mean())
    assert np.mean(near) > 1.3 * np.mean(far)


@pytest.mark.parametrize(("videos", "comments", "users"), [(20, 1, 1), (25, 5, 300)])
def test_tiny_worlds_can_be_built(videos, comments, users):
    world = build_demo_world(videos=videos, comments=comments, users=users, seed=3)
    assert world.counts()["videos"] == videos
    assert world.comments.join(world.videos, on="video_id", how="anti").is_empty()


def test_a_world_too_small_is_refused():
    with pytest.raises(DataError, match="found 19 videos"):
        build_demo_world(videos=19)
