from math import exp, sqrt

import numpy as np
import polars as pl
import pytest
from experiment_tables import units_of

from analysis.comparison import Comparison, adjust, compare
from analysis.definition import Plan
from analysis.metrics import OUTCOMES, Metric

VALUE = Metric("value", "value", "value")
PLAN = Plan()
BY_NAME = {metric.name: metric for metric in OUTCOMES}


def compared(units: pl.DataFrame, metric: Metric, plan: Plan = PLAN) -> Comparison:
    return compare(units, metric, control="a", arm="b", plan=plan)


def test_means_and_the_interval_of_a_table_by_hand() -> None:
    # a: mean 2, variance 1; b: mean 4, variance 4; squared error 1/3 + 4/3
    units = pl.DataFrame({"arm": list("aaabbb"), "value": [1.0, 2, 3, 2, 4, 6]})
    found = compared(units, VALUE)
    half = 1.959964 * sqrt(5 / 3)
    assert (found.control_mean, found.arm_mean, found.difference.value) == (2, 4, 2)
    assert found.difference.fixed_horizon == pytest.approx((2 - half, 2 + half))
    # of log(4/2): variance 1/3 / 2² + 4/3 / 4² = 1/6, by the delta method
    assert found.lift is not None
    stretch = exp(1.959964 * sqrt(1 / 6))
    assert found.lift.value == pytest.approx(1)
    assert found.lift.fixed_horizon == pytest.approx((2 / stretch - 1, 2 * stretch - 1))
    assert found.lift.always_valid[0] < found.lift.fixed_horizon[0]


def test_a_ratio_is_of_sums_and_its_error_by_the_delta_method() -> None:
    units = pl.DataFrame(
        {
            "arm": list("aaabbb"),
            "followed": [1.0, 2, 3, 2, 2, 4],
            "exposures": [2.0, 4, 4, 4, 4, 4],
        }
    )
    found = compared(units, BY_NAME["click_through"])
    assert found.control_mean == pytest.approx(6 / 10)
    assert found.arm_mean == pytest.approx(8 / 12)

    def variance(y: list[float], x: list[float]) -> float:
        residual = np.array(y) - np.mean(y) / np.mean(x) * np.array(x)
        return float(residual.var(ddof=1) / np.mean(x) ** 2 / len(x))

    error = sqrt(variance([1, 2, 3], [2, 4, 4]) + variance([2, 2, 4], [4, 4, 4]))
    width = found.difference.fixed_horizon[1] - found.difference.value
    assert width == pytest.approx(1.959964 * error)


def test_a_metric_that_never_varies_has_no_error_and_no_lift() -> None:
    units = pl.DataFrame({"arm": list("aabb"), "value": [0.0, 0, 0, 0]})
    found = compared(units, VALUE)
    assert found.difference.always_valid == (0, 0)
    assert found.lift is None
    assert found.p_fixed_horizon == found.p_always_valid == 1


def test_cuped_removes_what_the_covariate_explains_and_moves_no_difference_on_average() -> None:
    units = units_of(np.random.default_rng(1), 4_000, lift=0.1)
    found = compared(units, BY_NAME["comment_watch_time_ms"])
    correlation = np.corrcoef(units["comment_watch_time_ms"], units["pre_comment_watch_time_ms"])[
        0, 1
    ]
    assert found.variance_kept == pytest.approx(1 - correlation**2, abs=0.03)
    assert found.lift is not None
    assert found.lift.fixed_horizon[0] < 0.1 < found.lift.fixed_horizon[1]


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    one = compared(pl.DataFrame({"arm": list("aabb"), "value": [1.0, 2, 3, 4]}), VALUE)
    family = [
        one.model_copy(update={"metric": f"m{p}", "p_fixed_horizon": p}) for p in (0.01, 0.04, 0.03)
    ]
    holm = adjust(family, Plan(decide_by="fixed_horizon"))
    assert [found.p_adjusted for found in holm] == pytest.approx([0.03, 0.06, 0.06])
    rate = adjust(family, Plan(decide_by="fixed_horizon", correction="benjamini-hochberg"))
    assert [found.p_adjusted for found in rate] == pytest.approx([0.03, 0.04, 0.04])


@pytest.mark.parametrize("name", ["comment_watch_time_ms", "click_through"])
def test_simulated_truth(name: str) -> None:
    """A/A: wrong in about alpha of the runs; A/B: the interval covers the lift in the others."""
    rng = np.random.default_rng(7)
    runs, alpha = 300, 0.05
    tolerance = 3 * sqrt(alpha * (1 - alpha) / runs)
    same = [compared(units_of(rng, 600), BY_NAME[name]) for _ in range(runs)]
    wrong = np.mean([found.p_fixed_horizon < alpha for found in same])
    assert abs(wrong - alpha) <= tolerance
    better = [compared(units_of(rng, 600, lift=0.2), BY_NAME[name]) for _ in range(runs)]
    lifts = [found.lift for found in better if found.lift]
    missed = np.mean([not low < 0.2 < high for low, high in (one.fixed_horizon for one in lifts)])
    assert abs(missed - alpha) <= tolerance
    assert np.mean([low < 0.2 < high for low, high in (x.always_valid for x in lifts)]) >= 0.99
