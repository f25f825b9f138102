"""Are two runs, or a run and what needs no training, really different? Paired over users.

Runs that differ in the seed only count as one system: the mean over them, user by user.

Shape suffixes: S users that both have, R resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lsvcr.errors import DataError
from training.batches import Targets
from training.samples import Samples

USERS_FILE = "users.parquet"
COMPARED = ("ndcg@10", "recall@10")
RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 500
INTERVAL_RESAMPLES = 1_000
KEYS = ("task", "ranking", "user_id")


@dataclass(frozen=True)
class System:
    """What ranked: a model, or a baseline that was measured beside it.

    Attributes:
        runs: Folders; several are runs of the same settings with other seeds.
        name: `model`, or a baseline's.
    """

    runs: tuple[Path, ...]
    name: str = "model"


@dataclass(frozen=True)
class Difference:
    """One metric of two systems on the users that both ranked for.

    Attributes:
        low, high: 95 % interval of the mean difference, by bootstrap over users.
    """

    task: str
    ranking: str
    metric: str
    users: int
    first: float
    second: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def write_users(
    run: Path,
    samples: Samples,
    systems: dict[str, dict[str, dict[str, dict[str, NDArray[np.float64]]]]],
) -> None:
    """Write `users.parquet`: one row per system, task, ranking and user.

    `history` counts the user's earlier video events, `target_events` the training events of the
    video that was asked for, or that the comments stand under.
    """
    of_task = {
        "video": _facts(samples, samples.videos),
        "comment": _facts(samples, samples.comments),
    }
    frames = [
        pl.DataFrame({**of_task[task], **metrics}).with_columns(
            pl.lit(system).alias("system"),
            pl.lit(task).alias("task"),
            pl.lit(ranking).alias("ranking"),
        )
        for system, tasks in systems.items()
        for task, rankings in tasks.items()
        for ranking, metrics in rankings.items()
    ]
    beside = run / f".{USERS_FILE}.partial"
    pl.concat(frames).write_parquet(beside)
    beside.replace(run / USERS_FILE)


def _facts(samples: Samples, targets: Targets) -> dict[str, Any]:
    prepared = samples.prepared
    start_U1, order_N = prepared.timelines.video_start_U1, prepared.timelines.video_order_N
    history = [
        np.count_nonzero(order_N[start_U1[user] : start_U1[user + 1]] < cut)
        for user, cut in zip(targets.user_T, targets.cut_T, strict=True)
    ]
    return {
        "user_id": [prepared.user_ids[user] for user in targets.user_T],
        "history": history,
        "target_events": prepared.training_events_V[targets.video_T],
    }


def compare(first: System, second: System, *, seed: int = 0) -> Iterator[Difference]:
    """Compare two systems on the users that all of their runs ranked for.

    Raises:
        DataError: If a run has no such system or the two share no user.
    """
    joined = _read(first).join(_read(second), on=KEYS, suffix=" second").sort(KEYS)
    if joined.is_empty():
        names = ", ".join(str(run) for run in dict.fromkeys((*first.runs, *second.runs)))
        raise DataError(f"{names} have no evaluated user in common")
    for (task, ranking), users in joined.group_by("task", "ranking", maintain_order=True):
        for metric in COMPARED:
            first_S, second_S = users[metric].to_numpy(), users[f"{metric} second"].to_numpy()
            low, high = bootstrap_interval(second_S - first_S, seed=seed)
            yield Difference(
                task=str(task),
                ranking=str(ranking),
                metric=metric,
                users=len(users),
                first=float(first_S.mean()),
                second=float(second_S.mean()),
                low=low,
                high=high,
            )


def bootstrap_interval(difference_S: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean, by resampling users."""
    generator = np.random.default_rng(seed)
    means = [
        generator.choice(difference_S, (RESAMPLES_AT_ONCE, len(difference_S))).mean(1)
        for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def mean_intervals(run: Path, *, seed: int = 0) -> dict[str, Any]:
    """95 % intervals of every mean of a run: by system, task, ranking and metric, (low, high).

    The same resamples serve all metrics of a ranking.

    Raises:
        DataError: If the run was not evaluated.
    """
    users = read_users(run)
    intervals: dict[str, Any] = {}
    for (system, task, ranking), group in users.group_by("system", "task", "ranking"):
        metrics = [name for name in group.columns if "@" in name]
        value_SM = group.select(metrics).to_numpy()
        generator = np.random.default_rng(seed)
        drawn_RS = generator.integers(len(value_SM), size=(INTERVAL_RESAMPLES, len(value_SM)))
        mean_RM = np.stack([_weights(row, len(value_SM)) @ value_SM for row in drawn_RS])
        low_M, high_M = np.quantile(mean_RM, [0.025, 0.975], axis=0)
        intervals.setdefault(system, {}).setdefault(task, {})[ranking] = {
            metric: [float(low), float(high)]
            for metric, low, high in zip(metrics, low_M, high_M, strict=True)
        }
    return intervals


def _weights(drawn_S: NDArray[np.int64], users: int) -> NDArray[np.float64]:
    return np.bincount(drawn_S, minlength=users) / users


def _read(system: System) -> pl.DataFrame:
    """Each user's mean over the runs, of users that all runs have."""
    frames = []
    for run in system.runs:
        users = read_users(run)
        known = users["system"].unique().sort().to_list()
        if system.name not in known:
            raise DataError(
                f"{run / USERS_FILE} has no system {system.name!r}; it has {', '.join(known)}"
            )
        frames.append(users.filter(pl.col("system") == system.name).select(*KEYS, *COMPARED))
    of_users = pl.concat(frames).group_by(KEYS)
    means = of_users.agg(pl.col(COMPARED).mean(), pl.len().alias("runs"))
    return means.filter(pl.col("runs") == len(system.runs)).drop("runs")


def read_users(run: Path) -> pl.DataFrame:
    """Every user's metrics; raises DataError if the run was not evaluated."""
    path = run / USERS_FILE
    if not path.exists():
        raise DataError(f"{path} is missing: run `python -m training evaluate --run {run}`")
    return pl.read_parquet(path)
