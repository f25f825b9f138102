"""The whole report as data, from tables to verdict."""

from itertools import pairwise

import numpy as np
import polars as pl
from pydantic import BaseModel

from analysis.comparison import Comparison, Estimate, adjust, compare
from analysis.definition import Definition, Plan
from analysis.metrics import GUARDRAILS, OUTCOMES
from analysis.sample_ratio import SampleRatio, check_sample_ratio
from analysis.shown_items import ShownItems, describe_shown_items
from analysis.tables import Tables
from analysis.unit_table import UnitTable, build_unit_table
from analysis.verdict import (
    MIN_UNITS,
    GuardrailState,
    Verdict,
    check_guardrail,
    judge,
    need_data,
)

LOOKS = 24


class ArmSummary(BaseModel):
    """Who was in an arm, and which models answered."""

    arm: str
    units: int
    exposures: int
    model_versions: list[str]
    latency_p99_ms: float | None


class Look(BaseModel):
    """The primary metric's lift as it was known at some time."""

    until_ms: int
    arm: str
    units: int
    lift: Estimate


class Report(BaseModel):
    """Everything the page shows."""

    experiment: str
    control: str
    primary_metric: str
    plan: Plan
    start_ms: int
    end_ms: int
    arms: list[ArmSummary]
    crossed_units: int
    unattributed_events: int
    sample_ratio: SampleRatio
    verdicts: list[Verdict]
    outcomes: list[Comparison]
    guardrails: list[Comparison]
    guardrail_states: list[GuardrailState]
    videos: dict[str, ShownItems]
    comments: dict[str, ShownItems]
    looks: list[Look]


def build_report(tables: Tables, definition: Definition, plan: Plan) -> Report:
    """Compare every arm with the control.

    Where the sample ratio is off or units are too few the verdict says so and nothing else; the
    comparisons are there for whoever looks for the cause, if there are two units an arm.
    """
    control = definition.control
    table = build_unit_table(tables, plan)
    start_ms, end_ms = _span(tables)
    counts = dict(table.units.group_by("arm").len().iter_rows())
    ratio = check_sample_ratio(counts, definition.weights)
    comparable = [
        arm for arm in definition.treatments if min(counts.get(arm, 0), counts.get(control, 0)) > 1
    ]
    outcomes = _compare_outcomes(table, definition, comparable, plan)
    guardrails = [
        compare(table.units, metric, control=control, arm=arm, plan=plan)
        for arm in comparable
        for metric in GUARDRAILS
    ]
    states = [check_guardrail(one, plan) for one in guardrails]
    return Report(
        experiment=definition.name,
        control=control,
        primary_metric=definition.primary_metric,
        plan=plan,
        start_ms=start_ms,
        end_ms=end_ms,
        arms=[_summarise(tables, arm, counts.get(arm, 0)) for arm in definition.weights],
        crossed_units=table.crossed,
        unattributed_events=table.unattributed,
        sample_ratio=ratio,
        verdicts=_verdicts(definition, ratio, outcomes, states, plan),
        outcomes=outcomes,
        guardrails=guardrails,
        guardrail_states=states,
        videos=describe_shown_items(tables.exposures, "video_ids"),
        comments=describe_shown_items(tables.exposures, "comment_ids"),
        looks=_look_back(tables, definition, comparable, plan),
    )


def _compare_outcomes(
    table: UnitTable, definition: Definition, arms: list[str], plan: Plan
) -> list[Comparison]:
    """The primary metric is one family of comparisons, all others together another."""
    families: tuple[list[Comparison], list[Comparison]] = ([], [])
    for arm in arms:
        for metric in OUTCOMES:
            found = compare(table.units, metric, control=definition.control, arm=arm, plan=plan)
            families[metric.name != definition.primary_metric].append(found)
    return [one for family in families if family for one in adjust(family, plan)]


def _verdicts(
    definition: Definition,
    ratio: SampleRatio,
    outcomes: list[Comparison],
    states: list[GuardrailState],
    plan: Plan,
) -> list[Verdict]:
    verdicts = []
    for arm in definition.treatments:
        without = need_data(ratio, (definition.control, arm), plan)
        if without is not None:
            verdicts.append(Verdict(arm=arm, decision=without[0], text=without[1]))
            continue
        primary = next(
            one for one in outcomes if (one.metric, one.arm) == (definition.primary_metric, arm)
        )
        own = [state for state in states if state.arm == arm]
        verdicts.append(judge(primary, own, definition.control, plan))
    return verdicts


def _span(tables: Tables) -> tuple[int, int]:
    """The first exposure's time, and the last one's or the last event's."""
    shown_N = tables.exposures["timestamp"].to_numpy()
    done_M = tables.events["timestamp"].to_numpy()
    return int(shown_N.min()), int(max(shown_N.max(), done_M.max(initial=0)))


def _summarise(tables: Tables, arm: str, units: int) -> ArmSummary:
    rows = tables.exposures.filter(pl.col("arm") == arm)
    p99 = rows["latency_ms"].quantile(0.99, "linear")
    return ArmSummary(
        arm=arm,
        units=units,
        exposures=len(rows),
        model_versions=sorted(rows["model_version"].drop_nulls().unique().to_list()),
        latency_p99_ms=p99,
    )


def _look_back(tables: Tables, definition: Definition, arms: list[str], plan: Plan) -> list[Look]:
    """The primary metric at equally distant times since the start."""
    metric = next(one for one in OUTCOMES if one.name == definition.primary_metric)
    start_ms, last_ms = _span(tables)
    ends = np.linspace(start_ms, last_ms, LOOKS + 1).astype(np.int64).tolist()
    looks = []
    for before, until_ms in pairwise(ends):
        if until_ms == before:
            continue
        units = build_unit_table(tables, plan, until_ms=until_ms).units
        counts = dict(units.group_by("arm").len().iter_rows())
        for arm in arms:
            if min(counts.get(arm, 0), counts.get(definition.control, 0)) < MIN_UNITS:
                continue
            found = compare(units, metric, control=definition.control, arm=arm, plan=plan)
            if found.lift is not None:
                size = counts[arm] + counts[definition.control]
                looks.append(Look(until_ms=until_ms, arm=arm, units=size, lift=found.lift))
    return looks
