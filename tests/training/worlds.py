"""Small random data sets with every awkward case: overlaps, empty sides, repeats, ties."""

import json

import numpy as np
import polars as pl
import torch

from training.batches import TrainingRows, build_rows
from training.comment_features import comment_features
from training.config import PRESETS, RunConfig
from training.dataset_folder import Dataset
from training.encoder import Recommender
from training.fit import fit
from training.split import Prepared, TextTables, prepare

MINUTE = 60_000
START_MS = 1_700_000_000_000
WIDTH = 32
CPU = torch.device("cpu")


def random_dataset(seed: int, *, users: int = 12, videos: int = 15, comments: int = 80) -> Dataset:
    """Users with 0 to 30 events a side in ten hours, so that comment events overlap."""
    random = np.random.default_rng(seed)
    video_ids = [f"v{number}" for number in range(videos)]
    comment_ids = [f"c{number}" for number in range(comments)]
    video_events, comment_events = [], []
    for user in range(users):
        for _ in range(random.integers(3, 30)):
            minute = int(random.integers(600))
            video_events.append((f"u{user}", random.choice(video_ids), START_MS + minute * MINUTE))
        for _ in range(random.integers(0, 30) * (user % 4 > 0)):
            minute = int(random.integers(600))
            comment = random.choice(comment_ids)
            comment_events.append((f"u{user}", comment, START_MS + minute * MINUTE))
    return dataset(
        videos=[(video, f"title {video}") for video in video_ids],
        comments=[
            (comment, video_ids[number % (videos - 1)], f"text {comment}")
            for number, comment in enumerate(comment_ids)
        ],
        video_events=video_events,
        comment_events=comment_events,
    )


def dataset(*, videos, comments, video_events, comment_events) -> Dataset:
    """A data set of tuples; columns not given are empty."""
    none_text, none_int = pl.lit(None, pl.String), pl.lit(None, pl.Int64)
    return Dataset(
        videos=pl.DataFrame(
            videos, schema={"video_id": pl.String, "title": pl.String}, orient="row"
        ).with_columns(
            category=pl.Series(
                ["odd" if n % 2 else "even" for n in range(len(videos))], dtype=pl.String
            ),
            author_id=none_text,
            published_at=none_int,
        ),
        comments=pl.DataFrame(
            comments,
            schema={"comment_id": pl.String, "video_id": pl.String, "text": pl.String},
            orient="row",
        ).with_columns(author_id=none_text, created_at=none_int, likes=none_int),
        video_events=pl.DataFrame(
            video_events,
            schema={"user_id": pl.String, "video_id": pl.String, "timestamp": pl.Int64},
            orient="row",
        ).with_columns(type=pl.lit("video_like"), watch_time_ms=none_int),
        comment_events=pl.DataFrame(
            comment_events,
            schema={"user_id": pl.String, "comment_id": pl.String, "timestamp": pl.Int64},
            orient="row",
        ).with_columns(type=pl.lit("comment_like")),
    )


def config(*assignments: str) -> RunConfig:
    """The tiny preset without k-core, with overrides."""
    return PRESETS["tiny"].override(["data.min_events=1", *assignments])


def random_text(prepared: Prepared, seed: int = 0) -> TextTables:
    """Random text vectors with zero padding rows."""
    random = np.random.default_rng(seed)
    tables = [
        random.normal(size=(count, WIDTH)).astype(np.float32)
        for count in (prepared.catalogue.video_count, prepared.catalogue.comment_count)
    ]
    for table in tables:
        table[0] = 0
    features = comment_features(prepared, [tables[1], tables[1][:, :5]])
    return TextTables(*tables, features, prepared.catalogue.category_V)


def random_recommender(prepared: Prepared, run: RunConfig, seed: int = 0) -> Recommender:
    """A model in float64 whose weights are large enough for every part to matter."""
    torch.manual_seed(seed)
    text = random_text(prepared)
    tables = (text.title_VE, text.comment_CE, text.feature_CF, text.category_V)
    recommender = Recommender(run.model, *map(torch.from_numpy, tables)).double()
    with torch.no_grad():
        for parameter in recommender.parameters():
            parameter.normal_(std=0.3)
    return recommender.eval()


def rows_of(
    prepared: Prepared,
    run: RunConfig,
    targets: str,
    task: str = "joint",
    device: torch.device = CPU,
) -> TrainingRows:
    """All training rows."""
    return build_rows(
        prepared,
        max_history=run.model.max_history,
        targets=targets,
        task=task,
        device=device,
    )


def prepared_world(seed: int, run: RunConfig) -> Prepared:
    """A prepared random data set."""
    return prepare(random_dataset(seed), run)


def fit_world(folder, *assignments, seed=5):
    """Fit an invented world; the configuration, what was prepared, and the texts."""
    folder.mkdir(exist_ok=True)
    run = config(*assignments)
    prepared = prepared_world(seed, run)
    text = random_text(prepared)
    fit(prepared, text, run, folder)
    return run, prepared, text


def read_log(folder):
    """A run's log, an entry per epoch."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
