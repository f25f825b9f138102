"""One metric of one arm against the control: for one look, and for any number of them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import tea_tasting as tt
import tea_tasting.experiment
from pydantic import BaseModel
from scipy.stats import norm

from analysis.always_valid import p_value, radius, tuned_rho
from analysis.definition import Plan
from analysis.metrics import Metric

Interval = tuple[float, float]


class Estimate(BaseModel):
    """A difference or a relative lift, with both intervals."""

    value: float
    fixed_horizon: Interval
    always_valid: Interval

    def interval(self, decide_by: str) -> Interval:
        """The interval of that name."""
        return self.always_valid if decide_by == "always_valid" else self.fixed_horizon


class Comparison(BaseModel):
    """One metric of one arm against the control.

    Attributes:
        control_mean, arm_mean: Adjusted by CUPED where the metric has a covariate.
        difference: In the metric's unit.
        lift: Relative to the control; None where one of the means isn't positive.
        p_fixed_horizon, p_always_valid: Two-sided.
        p_adjusted: The one the verdict goes by, corrected for the number of comparisons.
        variance_kept: Share of the variance that CUPED left; 1 without it.
    """

    metric: str
    title: str
    arm: str
    control_mean: float
    arm_mean: float
    difference: Estimate
    lift: Estimate | None
    p_fixed_horizon: float
    p_always_valid: float
    p_adjusted: float
    variance_kept: float

    def favours(self, alpha: float) -> int:
        """1 where the arm is shown to have more, -1 less, 0 where nothing is shown."""
        if self.p_adjusted >= alpha:
            return 0
        return 1 if self.difference.value > 0 else -1


def compare(
    units: pl.DataFrame, metric: Metric, *, control: str, arm: str, plan: Plan
) -> Comparison:
    """Analyse one metric.

    The always-valid interval is the fixed-horizon one, wider by a factor that depends on the number
    of units alone; the relative lift's is so on the logarithm of the ratio.

    Args:
        units: As in `UnitTable.units`; needs two units in each of the two arms.
        metric: A mean, or a ratio of means by the delta method.
        control: The arm to compare with.
        arm: The arm to compare.
        plan: Gives alpha and the size at which the always-valid interval is tight.
    """
    pair = units.filter(pl.col("arm").is_in([control, arm]))
    found = _analyse(pair, metric, metric.covariate, control, arm, plan)
    rho = tuned_rho(plan.alpha, plan.planned_units)
    quantile = float(norm.isf(plan.alpha / 2))
    error = _standard_error(found, quantile)
    sequence = radius(len(pair), alpha=plan.alpha, rho=rho)
    value = float(found.effect_size)
    statistic = value / error if error else math.copysign(math.inf, value) if value else 0.0
    p_fixed = float(2 * norm.sf(abs(statistic)))
    return Comparison(
        metric=metric.name,
        title=metric.title,
        arm=arm,
        control_mean=found.control,
        arm_mean=found.treatment,
        difference=Estimate(
            value=value,
            fixed_horizon=(value - quantile * error, value + quantile * error),
            always_valid=(value - sequence * error, value + sequence * error),
        ),
        lift=_lift(found, sequence / quantile),
        p_fixed_horizon=p_fixed,
        p_always_valid=p_value(statistic, len(pair), rho=rho),
        p_adjusted=p_fixed,
        variance_kept=_variance_kept(pair, metric, control, arm, plan, error),
    )


def adjust(comparisons: Sequence[Comparison], plan: Plan) -> list[Comparison]:
    """Correct the p-values that decide for the number of comparisons, by the plan's correction."""
    deciding = {(one.metric, one.arm): getattr(one, f"p_{plan.decide_by}") for one in comparisons}
    results = {
        key: tea_tasting.experiment.ExperimentResult({"p": {"pvalue": p}})
        for key, p in deciding.items()
    }
    if plan.correction == "holm":
        adjusted = tt.adjust_fwer(results, arbitrary_dependence=True, method="bonferroni")
    else:
        adjusted = tt.adjust_fdr(results)
    return [
        one.model_copy(
            update={"p_adjusted": float(adjusted[one.metric, one.arm]["p"]["pvalue_adj"])}
        )
        for one in comparisons
    ]


def tea_metric(metric: Metric, covariate: str | None, **options: Any) -> tt.RatioOfMeans:
    """The metric as tea-tasting has it, with normal quantiles, which the sequence rests on, too."""
    return tt.RatioOfMeans(metric.numerator, metric.denominator, covariate, use_t=False, **options)


def _analyse(
    pair: pl.DataFrame, metric: Metric, covariate: str | None, control: str, arm: str, plan: Plan
) -> Any:
    wanted = tea_metric(metric, covariate, confidence_level=1 - plan.alpha)
    experiment = tt.Experiment({metric.name: wanted}, variant="arm")
    with np.errstate(invalid="ignore", divide="ignore"):  # no variance at all: see _standard_error
        results = experiment.analyze(pair, control=control, all_variants=True)
    return results[control, arm][metric.name]


def _standard_error(found: Any, quantile: float) -> float:
    """Of the difference; 0 where no unit differs from another (no answer was ever empty)."""
    error = float(found.effect_size_ci_upper - found.effect_size) / quantile
    return error if math.isfinite(error) else 0.0


def _lift(found: Any, wider: float) -> Estimate | None:
    low, value, high = (
        1 + float(bound)
        for bound in (
            found.rel_effect_size_ci_lower,
            found.rel_effect_size,
            found.rel_effect_size_ci_upper,
        )
    )
    if found.control <= 0 or found.treatment <= 0 or not math.isfinite(high):
        return None
    stretch = (high / value) ** wider
    return Estimate(
        value=value - 1,
        fixed_horizon=(low - 1, high - 1),
        always_valid=(value / stretch - 1, value * stretch - 1),
    )


def _variance_kept(
    pair: pl.DataFrame, metric: Metric, control: str, arm: str, plan: Plan, error: float
) -> float:
    if metric.covariate is None or not error:
        return 1.0
    plain = _analyse(pair, metric, None, control, arm, plan)
    return (error / _standard_error(plain, float(norm.isf(plan.alpha / 2)))) ** 2
