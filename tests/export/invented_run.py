"""A small invented world and a model with random weights, as training would hand them over."""

from contextlib import nullcontext

import numpy as np
import torch

from export.trained_run import TrainedRun
from lsvcr.catalogue import Catalogue, build_catalogue
from lsvcr.history import Timelines
from training.config import PRESETS, RunConfig
from training.encoder import Recommender

CONFIG = PRESETS["tiny"]
TEXT_WIDTH = 8
VIDEOS, COMMENTS, USERS = 40, 150, 25


def quiet(title: str) -> nullcontext[None]:
    return nullcontext()


def invent_run(*, videos: int, comments: int, users: int, config: RunConfig = CONFIG) -> TrainedRun:
    """A run as training would hand it over, if it had learned nothing."""
    rng = np.random.default_rng(5)
    catalogue = build_catalogue(
        video_ids=[f"v{n}" for n in range(videos)],
        titles=[f"title {n}" for n in range(videos)],
        categories=[None if n % 4 == 0 else f"category {n % 3}" for n in range(videos)],
        authors=[None] * videos,
        published_ms=[None] * videos,
        comment_ids=[f"c{n}" for n in range(comments)],
        comment_texts=[f"comment {n}" for n in range(comments)],
        comment_video_ids=[f"v{n}" for n in rng.integers(0, max(1, videos - 3), comments)],
        likes=list(range(comments)),
    )
    trained = max(1, videos * 3 // 4)  # the others are cold
    timelines = invent_timelines(rng, catalogue, users, trained)
    return TrainedRun(
        config=config,
        catalogue=catalogue,
        timelines=timelines,
        recommender=random_recommender(config, catalogue),
        training_events_V=np.bincount(timelines.video_N, minlength=catalogue.video_count),
        prior_seed=None,
        comment_events=len(timelines.comment_video_M),
        metrics={"video": {"sampled": {"recall@10": 0.5}}},
        data_fingerprint="0" * 64,
    )


def invent_timelines(
    rng: np.random.Generator, catalogue: Catalogue, users: int, trained: int
) -> Timelines:
    events = users * 20
    comment_C = rng.integers(1, max(2, catalogue.comment_count), events)
    comment_C = comment_C[comment_C < catalogue.comment_count]
    return Timelines.build(
        users=users,
        video_user_N=rng.integers(0, users, events),
        video_N=rng.integers(1, trained + 1, events),
        video_time_N=rng.integers(0, 10**10, events),
        comment_user_C=rng.integers(0, users, len(comment_C)),
        comment_C=comment_C,
        comment_video_C=catalogue.comment_video_C[comment_C],
        comment_time_C=rng.integers(0, 10**10, len(comment_C)),
        comments_per_event=CONFIG.model.comments_per_event,
    )


@torch.no_grad()
def random_recommender(config: RunConfig, catalogue: Catalogue) -> Recommender:
    """Weights large enough that every part of the model matters."""
    torch.manual_seed(7)
    title_VE = torch.randn(catalogue.video_count, TEXT_WIDTH)
    comment_CE = torch.randn(catalogue.comment_count, TEXT_WIDTH)
    title_VE[0] = comment_CE[0] = 0
    feature_CF = torch.randn(catalogue.comment_count, TEXT_WIDTH)
    recommender = Recommender(config.model, title_VE, comment_CE, feature_CF).eval()
    for parameter in recommender.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    recommender.items.id.weight[0] = 0
    return recommender
