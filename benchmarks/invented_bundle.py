"""Bundles with random weights: speed doesn't depend on what a model has learned.

Shape suffixes: V videos, C comments, E text features, H half-lives.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from benchmarks.invented_users import DAY_MS, NOW_MS, build_timelines, invent_events
from export.candidate_index import IndexOptions
from export.pipeline import export_run
from export.trained_run import TrainedRun
from lsvcr.catalogue import Catalogue, build_catalogue
from lsvcr.popularity import HOUR_MS
from training.config import PRESETS
from training.encoder import Recommender
from training.popularity_prior import PriorSeed

TEXT_WIDTH = 64
COMMENTS_PER_VIDEO = 3
USERS = 2_000


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
