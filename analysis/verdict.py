"""What the figures say, in words."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from analysis.comparison import Comparison, Estimate
from analysis.definition import Plan
from analysis.metrics import GUARDRAILS
from analysis.sample_ratio import SUSPICIOUS, SampleRatio

MIN_UNITS = 30
"""In each arm; below, the normal approximation behind every interval is not to be relied on."""

Decision = Literal["do_not_trust", "too_early", "harmful", "better", "worse", "undecided"]


class Verdict(BaseModel):
    """One arm's; `text` is complete without the rest of the report."""

    arm: str
    decision: Decision
    text: str


class GuardrailState(BaseModel):
    """`holds`: worse by no more than the margin; `broken`: worse by more; `open`: not known yet."""

    metric: str
    arm: str
    margin: float
    state: Literal["holds", "broken", "open"]


def check_guardrail(comparison: Comparison, plan: Plan) -> GuardrailState:
    """Hold the difference's interval against the margin."""
    default = next(metric.margin for metric in GUARDRAILS if metric.name == comparison.metric)
    margin = plan.margins.get(comparison.metric, default)
    low, high = comparison.difference.interval(plan.decide_by)
    state: Literal["holds", "broken", "open"] = "open"
    if high <= margin:
        state = "holds"
    elif low > margin:
        state = "broken"
    return GuardrailState(metric=comparison.metric, arm=comparison.arm, margin=margin, state=state)


def need_data(ratio: SampleRatio, arms: Sequence[str], plan: Plan) -> tuple[Decision, str] | None:
    """Say why nothing can be said yet, or None: the assignment is off, or units are too few."""
    if ratio.is_off:
        shares = ", ".join(
            f"{arm} {ratio.observed[arm]:,} instead of {ratio.expected[arm]:,.0f}"
            for arm in ratio.observed
        )
        return "do_not_trust", (
            f"Do not trust this experiment: the arms' sizes differ from their weights ({shares}; "
            f"p = {ratio.p_value:.1e}, below {SUSPICIOUS}). Units are lost or assigned wrongly in "
            "one arm, and every comparison may come from that. Find the cause first."
        )
    fewest = min(ratio.observed[arm] for arm in arms)
    if fewest < MIN_UNITS:
        return "too_early", (
            f"Too early: {fewest} units in the smallest arm, and below {MIN_UNITS} no interval "
            "can be relied on."
        )
    total = sum(ratio.observed.values())
    if plan.decide_by == "fixed_horizon" and total < plan.planned_units:
        return "too_early", (
            f"Too early: {total:,} of the {plan.planned_units:,} planned units. A fixed-horizon "
            "interval holds for one look, at the planned size."
        )
    return None


def judge(
    primary: Comparison, guardrails: Sequence[GuardrailState], control: str, plan: Plan
) -> Verdict:
    """Weigh one arm's primary metric and guardrails."""
    arm = primary.arm
    broken = [state.metric for state in guardrails if state.state == "broken"]
    unsure = [state.metric for state in guardrails if state.state == "open"]
    found = _found(primary, control, plan)
    if broken:
        return Verdict(
            arm=arm,
            decision="harmful",
            text=f"{arm} does harm: {', '.join(broken)} is worse than tolerated. {found}",
        )
    decision: Decision = ("undecided", "better", "worse")[primary.favours(plan.alpha)]
    known = f" Not known yet to be within the margin: {', '.join(unsure)}." if unsure else ""
    return Verdict(arm=arm, decision=decision, text=found + known)


def _found(primary: Comparison, control: str, plan: Plan) -> str:
    arm, title = primary.arm, primary.title
    amount = _amount(primary, plan)
    favours = primary.favours(plan.alpha)
    if favours:
        word = "better" if favours > 0 else "worse"
        return f"{arm} is {word} than {control}: {title} {amount}, p = {primary.p_adjusted:.2g}."
    return (
        f"No difference between {arm} and {control} is shown: {title} {amount}, "
        f"p = {primary.p_adjusted:.2g}. That is no proof of equality: anything in the interval "
        "fits the data."
    )


def _amount(primary: Comparison, plan: Plan) -> str:
    level = f"{100 * (1 - plan.alpha):g} %"
    kind = plan.decide_by.replace("_", "-")
    if primary.lift is None:
        low, high = primary.difference.interval(plan.decide_by)
        return (
            f"{primary.difference.value:+.4g} ({kind} {level} interval {low:+.4g} to {high:+.4g})"
        )
    return f"{in_percent(primary.lift)} ({kind} {level} interval {spread(primary.lift, plan)})"


def in_percent(lift: Estimate) -> str:
    """A relative lift with its sign."""
    return f"{100 * lift.value:+.1f} %"


def spread(lift: Estimate, plan: Plan) -> str:
    """The deciding interval of a relative lift."""
    low, high = lift.interval(plan.decide_by)
    return f"{100 * low:+.1f} % to {100 * high:+.1f} %"
