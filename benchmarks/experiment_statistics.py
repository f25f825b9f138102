"""Whether the report's mathematics and the split are right: thousands of tests of known truth.

Units arrive over some days and go on being active, so that each daily look sees more of the earlier
ones as well. Their activity depends on a taste of their own, which the days before show, too.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.comparison import compare
from analysis.definition import Plan
from analysis.metrics import OUTCOMES, Metric
from analysis.sample_ratio import SUSPICIOUS, check_sample_ratio
from benchmarks.results_file import write_results
from service.experiments.assignment import assign
from service.experiments.definition import Experiment

UNITS, DAYS = 1_400, 14
PLAN = Plan(planned_units=UNITS)
MEAN = next(metric for metric in OUTCOMES if metric.name == "comment_watch_time_ms")
RATIO = next(metric for metric in OUTCOMES if metric.name == "click_through")
LIFT = 0.1
SPLIT_UNITS = 200_000

Array = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    args = parser.parse_args()
    started_s = time.monotonic()
    found: dict[str, Any] = {
        "runs": args.runs,
        "units": UNITS,
        "days": DAYS,
        "a_a_false_alarms": false_alarms(args.runs),
        "a_a_false_alarms_of_daily_looks": peeking(args.runs),
        "a_b_coverage": coverage(args.runs),
        "cuped_variance_kept": cuped(200),
        "split": broken_splits(args.runs),
        "hash_split_p_values": hash_splits(),
    }
    found["seconds"] = round(time.monotonic() - started_s)
    for name, value in found.items():
        print(f"{name}: {value}")
    write_results(args.json, found)


class Draw:
    """One experiment's units: when they come, what they do each day, and what they did before."""

    def __init__(self, rng: np.random.Generator, *, lift: float) -> None:
        self.is_treated_U = rng.random(UNITS) < 0.5
        taste_U = rng.gamma(2.0, 1.0, UNITS)
        factor_U = np.where(self.is_treated_U, 1 + lift, 1.0)
        is_active_UD = np.arange(DAYS) >= rng.integers(0, DAYS, UNITS)[:, None]
        self.watched_UD: Array = np.where(
            is_active_UD, (factor_U * taste_U)[:, None] * rng.gamma(1.0, 500.0, (UNITS, DAYS)), 0.0
        )
        self.before_U: Array = taste_U * rng.gamma(4.0, 500.0, UNITS)
        self.answers_UD = np.where(is_active_UD, 1 + rng.poisson(1, (UNITS, DAYS)), 0)
        chance_U = np.clip(0.08 + 0.05 * taste_U, 0, 0.6) * factor_U
        self.followed_UD = rng.binomial(self.answers_UD, chance_U[:, None])

    def units(self, days: int = DAYS) -> pl.DataFrame:
        """The unit table as it was known after some days."""
        has_come_U = self.answers_UD[:, :days].sum(axis=1) > 0
        columns = {
            "comment_watch_time_ms": self.watched_UD[:, :days].sum(axis=1),
            "pre_comment_watch_time_ms": self.before_U,
            "exposures": self.answers_UD[:, :days].sum(axis=1).astype(float),
            "followed": self.followed_UD[:, :days].sum(axis=1).astype(float),
        }
        arms = np.where(self.is_treated_U, "b", "a")[has_come_U]
        values = {name: column[has_come_U] for name, column in columns.items()}
        return pl.DataFrame({"arm": arms.tolist(), **values})


def false_alarms(runs: int) -> dict[str, float]:
    """A/A, one look at the end: how often p < 0.05."""
    rng = np.random.default_rng(1)
    alarms = {MEAN.name: 0, RATIO.name: 0}
    for _ in range(runs):
        units = Draw(rng, lift=0.0).units()
        for metric in (MEAN, RATIO):
            alarms[metric.name] += _compare(units, metric).p_fixed_horizon < PLAN.alpha
    return {name: count / runs for name, count in alarms.items()}


def peeking(runs: int) -> dict[str, float]:
    """A/A, a look every day: how often any of them shows a difference."""
    rng = np.random.default_rng(2)
    always_valid = fixed = 0
    for _ in range(runs):
        draw = Draw(rng, lift=0.0)
        looks = [_compare(draw.units(day), MEAN) for day in range(1, DAYS + 1)]
        always_valid += any(look.p_always_valid < PLAN.alpha for look in looks)
        fixed += any(look.p_fixed_horizon < PLAN.alpha for look in looks)
    return {"always_valid": always_valid / runs, "fixed_horizon": fixed / runs}


def coverage(runs: int) -> dict[str, float]:
    """A/B with a planted lift: how often the interval holds it."""
    rng = np.random.default_rng(3)
    covered = {MEAN.name: 0, RATIO.name: 0, f"{MEAN.name} (always valid)": 0}
    for _ in range(runs):
        units = Draw(rng, lift=LIFT).units()
        for metric in (MEAN, RATIO):
            lift = _compare(units, metric).lift
            if lift is None:
                raise RuntimeError("no lift where there is one")
            covered[metric.name] += _holds(lift.fixed_horizon)
            if metric is MEAN:
                covered[f"{MEAN.name} (always valid)"] += _holds(lift.always_valid)
    return {name: count / runs for name, count in covered.items()}


def cuped(runs: int) -> dict[str, float]:
    """The share of the variance that CUPED leaves, beside 1 - correlation²."""
    rng = np.random.default_rng(4)
    kept, theory = [], []
    for _ in range(runs):
        units = Draw(rng, lift=0.0).units()
        kept.append(_compare(units, MEAN).variance_kept)
        value, covariate = units[MEAN.numerator].to_numpy(), units[str(MEAN.covariate)].to_numpy()
        theory.append(1 - np.corrcoef(value, covariate)[0, 1] ** 2)
    furthest = float(np.abs(np.subtract(kept, theory)).max())
    return {
        "found": round(float(np.mean(kept)), 4),
        "theory": round(float(np.mean(theory)), 4),
        "furthest_apart": round(furthest, 4),
    }


def broken_splits(runs: int) -> dict[str, float]:
    """How often the check of the sample ratio gives alarm, at 200,000 units of equal weights."""
    rng = np.random.default_rng(5)
    share_of_b = {
        "right": 0.5,
        "51 to 49": 0.51,
        "1 % of b answered by a": 0.5 * 0.99,
        "1 % of b lost": 0.5 * 0.99 / (1 - 0.5 * 0.01),
    }
    return {
        name: sum(_is_alarming(int(rng.binomial(SPLIT_UNITS, share))) for _ in range(runs)) / runs
        for name, share in share_of_b.items()
    }


def hash_splits() -> dict[str, float]:
    """The service's own assignment of 200,000 users, by seed: p-values of the sample ratio."""
    arms = [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5}]
    p_values = []
    for seed in ("encoder-v2", "spring", "x1", "comments-first", "7"):
        definition = Experiment.model_validate(
            {"name": "x", "seed": seed, "arms": arms, "control": "a", "status": "running"}
        )
        drawn = [assign(definition, f"user-{number}").arm for number in range(SPLIT_UNITS)]
        p_values.append(_p_value(drawn.count("b")))
    return {"smallest": round(min(p_values), 4), "largest": round(max(p_values), 4)}


def _compare(units: pl.DataFrame, metric: Metric) -> Any:
    return compare(units, metric, control="a", arm="b", plan=PLAN)


def _holds(interval: Sequence[float]) -> bool:
    return interval[0] <= LIFT <= interval[1]


def _is_alarming(in_b: int) -> bool:
    return _p_value(in_b) < SUSPICIOUS


def _p_value(in_b: int) -> float:
    counts = {"a": SPLIT_UNITS - in_b, "b": in_b}
    return check_sample_ratio(counts, {"a": 0.5, "b": 0.5}).p_value


if __name__ == "__main__":
    main()
