"""Bundles of any size with random weights: speed doesn't depend on what a model has learned.

Shape suffixes: U users, N video events, M comment events, V videos.
"""

import argparse
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.candidate_index import IndexOptions
from export.pipeline import export_run
from export.trained_run import TrainedRun
from lsvcr.catalogue import Catalogue, build_catalogue
from lsvcr.history import Timelines
from lsvcr.popularity import HOUR_MS
from training.config import PRESETS
from training.encoder import Recommender
from training.popularity_prior import PriorSeed

DAY_MS = 86_400_000
NOW_MS = 20_600 * DAY_MS
TEXT_WIDTH = 64
COMMENTS_PER_VIDEO = 3
USERS = 2_000


@dataclass(frozen=True)
class Events:
    """What invented users did: median 14 events a side, mean 22, a third of them 50 or more."""

    video_user_N: NDArray[np.int64]
    video_N: NDArray[np.int64]
    video_time_N: NDArray[np.int64]
    comment_user_M: NDArray[np.int64]
    comment_M: NDArray[np.int64]
    comment_time_M: NDArray[np.int64]


def invent_catalogue(videos: int) -> Catalogue:
    """Titles, categories and authors for every video, and three comments for each on average."""
    random = np.random.default_rng(1)
    comments = COMMENTS_PER_VIDEO * videos
    return build_catalogue(
        video_ids=[f"video-{n}" for n in range(videos)],
        titles=[f"The invented title of video number {n}" for n in range(videos)],
        categories=[f"category {n % 20}" for n in range(videos)],
        authors=[f"author {n % 997}" for n in range(videos)],
        published_ms=[NOW_MS - (n % 365) * DAY_MS for n in range(videos)],
        comment_ids=[f"comment-{n}" for n in range(comments)],
        comment_texts=[f"What somebody wrote as comment number {n}" for n in range(comments)],
        comment_video_ids=[f"video-{n}" for n in random.integers(0, videos, comments)],
        likes=(random.pareto(1.0, comments) * 3).astype(int).tolist(),
    )


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


@torch.no_grad()
def invent_run(videos: int, preset: str = "small") -> TrainedRun:
    """A run as training would hand it over, if it had learned nothing."""
    config = PRESETS[preset]
    catalogue = invent_catalogue(videos)
    events = invent_events(catalogue, USERS)
    timelines = build_timelines(catalogue, events, USERS, config.model.comments_per_event)
    torch.manual_seed(3)
    title_VE, comment_CE = (
        torch.randn(count, TEXT_WIDTH) for count in (catalogue.video_count, catalogue.comment_count)
    )
    title_VE[0] = comment_CE[0] = 0
    recommender = Recommender(config.model, title_VE, comment_CE, comment_CE.half().float()).eval()
    for parameter in recommender.parameters():
        if parameter.ndim < 2 or len(parameter) < 1000:  # what the encoder learns, not the ids
            parameter += 0.1 * torch.randn_like(parameter)
    if recommender.prior is not None:
        recommender.prior.direct.weight += 0.1
    half_lives = len(config.model.prior_half_lives_days)
    random = np.random.default_rng(4)
    count_HV = random.pareto(1.0, (half_lives, catalogue.video_count)).astype(np.float32)
    return TrainedRun(
        config=config,
        catalogue=catalogue,
        timelines=timelines,
        recommender=recommender,
        training_events_V=np.bincount(timelines.video_N, minlength=catalogue.video_count),
        prior_seed=PriorSeed(hour=NOW_MS // HOUR_MS, decayed_count_HV=count_HV),
        comment_events=len(timelines.comment_video_M),
        metrics={},
        data_fingerprint="0" * 64,
    )


def publish(run: TrainedRun, registry: Path) -> Path:
    """Export and activate a run; returns the bundle's folder."""
    return export_run(
        run,
        registry,
        options=IndexOptions(),
        activate=True,
        keep=3,
        step=lambda title: nullcontext(),
    )


def registry_of(folder: Path, videos: int) -> Path:
    """A registry with an invented bundle of so many videos, made if it isn't there yet."""
    registry = folder / f"registry-{videos}"
    if not (registry / "current.json").exists():
        publish(invent_run(videos), registry)
    return registry


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of the service takes."""
    parser.add_argument("--videos", type=int, default=10_000, help="in the invented bundle")
    parser.add_argument("--work", type=Path, required=True, help="folder for bundles and stores")
    parser.add_argument("--out", type=Path, help="JSON file")
