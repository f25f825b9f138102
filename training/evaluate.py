"""Evaluation of both tasks on what was held out (docs/model.md).

Shape suffixes: S samples (one per user), V video rows, N candidates.
"""

import itertools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lsvcr.errors import DataError
from lsvcr.metrics import (
    mean_metrics,
    rank_single,
    sample_metrics_of_ranks,
    sample_metrics_of_scores,
)
from training import processes
from training.chance import expected_metrics
from training.checkpoint import load_recommender
from training.compare import COMPARED, bootstrap_interval, write_users
from training.config import RunConfig
from training.encoder import Recommender
from training.examples import write_examples
from training.leak_check import Control, compare_with_chance, with_random_targets
from training.samples import draw_samples
from training.score_parts import ScoreParts
from training.scorers import (
    ModelScorer,
    PartsAlone,
    Popularity,
    TextNeighbours,
    forget_untrained_ids,
)
from training.split import Prepared, Split, TextTables

CHUNK = 512
"""Samples scored at once: a chunk's scores of all videos must fit in memory."""
COLD_NAMES = {
    "sampled": "cold",
    "popular": "cold_popular",
    "full": "cold_full",
    "thread": "cold",
}
"""What the rankings of the split `cold` are called."""

VIDEO_RANKINGS = ("sampled", "popular", "full")

Metrics = dict[str, dict[str, dict[str, float]]]
"""By task, ranking and metric."""
UserMetrics = dict[str, dict[str, dict[str, NDArray[np.float64]]]]
"""The same before the mean: one value for each user."""


class Scorer(Protocol):
    """A ranking to be evaluated: scores for slices of an evaluation's samples."""

    def videos(self, part: slice) -> NDArray[np.float32]:
        """Scores of all videos, (S, V)."""

    def comments(self, part: slice) -> NDArray[np.float32]:
        """Scores of the samples' comment candidates, (S, N)."""


class Evaluation:
    """Measures rankings on one split's samples."""

    def __init__(self, prepared: Prepared, config: RunConfig, split: Split) -> None:
        self.config, self.split = config, split
        self.samples = draw_samples(prepared, config, split)

    def evaluate(self, scorer: Scorer) -> Metrics:
        """Mean metrics of both tasks; a task without samples is left out."""
        return _means(self.evaluate_users(scorer))

    def evaluate_users(self, scorer: Scorer) -> UserMetrics:
        """Metrics of every user, in the order of the samples."""
        metrics: UserMetrics = {}
        if len(self.samples.videos.user_T):
            metrics["video"] = {
                self.name(ranking): sample_metrics_of_ranks(rank_S)
                for ranking, rank_S in zip(VIDEO_RANKINGS, self._rank_videos(scorer).T, strict=True)
            }
        if len(self.samples.comments.user_T):
            score_SN = by_chunks(scorer.comments, len(self.samples.comments.user_T))
            is_candidate_SN = self.samples.candidate_SN > 0
            thread = sample_metrics_of_scores(score_SN, self.samples.is_own_SN, is_candidate_SN)
            metrics["comment"] = {self.name("thread"): thread}
        return metrics

    def random_order(self) -> UserMetrics:
        """What a random order is expected to reach, for every user."""
        metrics: UserMetrics = {}
        samples = self.samples
        if users := len(samples.videos.user_T):
            one_S = np.ones(users, np.int64)
            sampled_S, popular_S = (
                1 + (drawn_SN > 0).sum(1) for drawn_SN in (samples.negative_SN, samples.popular_SN)
            )
            full_S = np.full(users, np.count_nonzero(samples.prepared.is_core_V))
            if self.config.evaluate.exclude_seen:
                is_core_1V = samples.prepared.is_core_V[None, :]
                full_S -= by_chunks(lambda part: (self._seen(part) & is_core_1V).sum(1), users)
            metrics["video"] = {
                self.name("sampled"): expected_metrics(one_S, sampled_S),
                self.name("popular"): expected_metrics(one_S, popular_S),
                self.name("full"): expected_metrics(one_S, full_S),
            }
        if len(samples.comments.user_T):
            thread = expected_metrics(samples.is_own_SN.sum(1), (samples.candidate_SN > 0).sum(1))
            metrics["comment"] = {self.name("thread"): thread}
        return metrics

    def name(self, ranking: str) -> str:
        """What a ranking is called in this split's metrics."""
        return COLD_NAMES[ranking] if self.split == "cold" else ranking

    def selection_score(self, metrics: Metrics, task: str) -> float:
        """What training selects a checkpoint by: mean NDCG@5 of the tasks it trains."""
        kinds = {"video": "sampled", "comment": "thread"}
        wanted = [kind for kind in kinds if task in ("joint", kind) and kind in metrics]
        return float(np.mean([metrics[kind][kinds[kind]]["ndcg@5"] for kind in wanted]))

    def _rank_videos(self, scorer: Scorer) -> NDArray[np.int64]:
        """Each target's rank among uniform negatives, popular ones, and all videos; (S, 3)."""
        is_core_1V = self.samples.prepared.is_core_V[None, :]

        def rank(part: slice) -> NDArray[np.int64]:
            score_SV = scorer.videos(part)
            target_S = self.samples.videos.video_T[part]
            first_S = np.zeros(len(target_S), np.int64)
            rank_RS = []
            for drawn_SN in (self.samples.negative_SN[part], self.samples.popular_SN[part]):
                candidate_SN = np.concatenate([target_S[:, None], drawn_SN], axis=1)
                drawn_score_SN = np.take_along_axis(score_SV, candidate_SN, axis=1)
                rank_RS.append(rank_single(drawn_score_SN, first_S, candidate_SN > 0))
            is_candidate_SV = is_core_1V
            if self.config.evaluate.exclude_seen:
                is_candidate_SV = is_core_1V & ~self._seen(part)
            return np.stack([*rank_RS, rank_single(score_SV, target_S, is_candidate_SV)], 1)

        return by_chunks(rank, len(self.samples.videos.user_T))

    def _seen(self, part: slice) -> NDArray[np.bool_]:
        """What the full ranking leaves out of what was watched before: never the target, (S, V)."""
        is_seen_SV = self.samples.seen(part)
        is_seen_SV[np.arange(len(is_seen_SV)), self.samples.videos.video_T[part]] = False
        return is_seen_SV


def evaluate_run(
    prepared: Prepared, text: TextTables, config: RunConfig, folder: Path
) -> dict[str, Any]:
    """Test metrics of a run's best checkpoint beside the rankings that need no training.

    Writes every user's to `users.parquet`, for paired comparison (`training.compare`), but for
    cold videos: those metrics have other users and carry their own 95 % intervals.

    Raises:
        DataError: If the model finds targets that were drawn at random: something leaks.
    """
    recommender = load_recommender(folder, config, text)
    forget_untrained_ids(recommender, prepared.is_trained_V)
    controls = check_for_leaks(prepared, text, config, recommender)
    test = Evaluation(prepared, config, "test")
    model, baselines = _systems(test, recommender, text)
    users = {
        name: test.evaluate_users(scorer) for name, scorer in {"model": model, **baselines}.items()
    }
    if prepared.cold is not None:
        users["random"] = test.random_order()
    if processes.is_first():
        write_users(folder, test.samples, users)
        write_examples(folder, test.samples, model)
    means = {name: _means(metrics) for name, metrics in users.items()}
    if prepared.cold is not None:
        for name, metrics in _evaluate_cold(prepared.cold, text, config, recommender).items():
            for task, rankings in metrics.items():
                means[name].setdefault(task, {}).update(rankings)
    return {
        **means.pop("model"),
        "baselines": means,
        "leak_check": [asdict(control) for control in controls],
    }


def check_for_leaks(
    prepared: Prepared, text: TextTables, config: RunConfig, recommender: Recommender
) -> list[Control]:
    """Evaluate a model on random targets (`training.leak_check`).

    Raises:
        DataError: If it does better than chance.
    """
    random = with_random_targets(prepared, "test", config.evaluate.seed)
    evaluation = Evaluation(random, config, "test")
    model, _ = _systems(evaluation, recommender, text)
    controls = compare_with_chance(evaluation.evaluate_users(model), evaluation.random_order())
    for control in controls:
        if control.is_leak:
            raise DataError(
                f"leak check: {control.task} targets drawn at random reach NDCG@10 "
                f"{control.reached:.4f} where chance is {control.chance:.4f}, "
                f"{control.errors:.1f} standard errors above it: answers reach the questions"
            )
    return controls


def _evaluate_cold(
    cold: Prepared, text: TextTables, config: RunConfig, recommender: Recommender
) -> dict[str, Metrics]:
    """Metrics on videos that training never saw, by system, with intervals."""
    evaluation = Evaluation(cold, config, "cold")
    model, baselines = _systems(evaluation, recommender, text)
    users = {
        name: evaluation.evaluate_users(scorer)
        for name, scorer in {"model": model, **baselines}.items()
    }
    users["random"] = evaluation.random_order()
    return {name: _with_intervals(metrics) for name, metrics in users.items()}


def _systems(
    evaluation: Evaluation, recommender: Recommender, text: TextTables
) -> tuple[ModelScorer, dict[str, Scorer]]:
    """The model, and what needs no training."""
    samples = evaluation.samples
    parts = ScoreParts.build(
        samples.prepared, text, recommender, samples.videos.event_T, torch.device("cpu")
    )
    baselines: dict[str, Scorer] = {
        "popularity": Popularity(samples),
        "text_neighbours": TextNeighbours(samples, text),
    }
    if recommender.config.prior_half_lives_days or recommender.config.profile_events:
        baselines["prior_and_profile"] = PartsAlone(recommender, parts, samples)
    return ModelScorer(recommender, parts, samples), baselines


def _means(users: UserMetrics) -> Metrics:
    return {
        task: {ranking: mean_metrics(metrics) for ranking, metrics in rankings.items()}
        for task, rankings in users.items()
    }


def _with_intervals(users: UserMetrics) -> Metrics:
    """Means, and as `METRIC low` and `METRIC high` the 95 % bootstrap interval over users."""
    means = _means(users)
    for task, rankings in users.items():
        for ranking, metrics in rankings.items():
            for name in COMPARED:
                low, high = bootstrap_interval(metrics[name], seed=0)
                means[task][ranking] |= {f"{name} low": low, f"{name} high": high}
    return means


def by_chunks(measure: Callable[[slice], NDArray[Any]], samples: int) -> NDArray[Any]:
    """Measure all samples, a chunk at a time; each process measures its part, and all get all."""
    own = processes.own_part(samples)
    bounds = [*range(own.start, own.stop, CHUNK), own.stop]
    chunks = [measure(slice(*bound)) for bound in itertools.pairwise(bounds)]
    return np.concatenate(processes.gather(chunks))
