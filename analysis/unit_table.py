"""One row per unit: what it was shown, what it did since, and what it did before."""

from dataclasses import dataclass

import polars as pl

from analysis.definition import Plan
from analysis.metrics import CUT
from analysis.tables import Tables

DAY_MS = 86_400_000
INTERACTIONS = (
    "video_like",
    "video_share",
    "comment_like",
    "comment_reply",
    "comment_write",
)


@dataclass(frozen=True)
class UnitTable:
    """Units and what was left out of them.

    Attributes:
        units: A row per unit: unit_id, arm, sums of its exposures and of its events since the
            first one, and `pre_…` sums of the events before the experiment.
        crossed: Units that saw more than one arm; they are in none.
        unattributed: Events whose user is several units, and that name no recommendation.
    """

    units: pl.DataFrame
    crossed: int
    unattributed: int


def build_unit_table(tables: Tables, plan: Plan, *, until_ms: int | None = None) -> UnitTable:
    """Sum up each unit's exposures and events.

    Everything a unit does from its first exposure on counts, whether or not it follows from an
    answer: the comparison is of everybody who was assigned. The pre-period ends where the whole
    experiment starts, so that no arm can have touched it.

    Args:
        tables: One experiment's.
        plan: Length of the pre-period, and where to winsorise.
        until_ms: Look at what had happened by then, in Unix ms; None for all.
    """
    exposures, events = tables.exposures, tables.events
    if until_ms is not None:
        exposures = exposures.filter(pl.col("timestamp") <= until_ms)
        events = events.filter(pl.col("timestamp") <= until_ms)
    start_ms = pl.lit(tables.exposures["timestamp"].min())
    events, unattributed = _with_units(exposures, events)
    per_unit = _sum_exposures(exposures, events)
    kept = per_unit.filter(pl.col("arms") == 1).drop("arms")
    dated = events.join(kept.select("unit_id", "first_ms"), on="unit_id")
    since = dated.filter(pl.col("timestamp") >= pl.col("first_ms"))
    before = dated.filter(
        pl.col("timestamp") < start_ms,
        pl.col("timestamp") >= start_ms - int(plan.pre_days * DAY_MS),
    )
    units = (
        kept.join(_sum_events(since), on="unit_id", how="left")
        .join(
            _sum_events(before).rename(lambda n: n if n == "unit_id" else f"pre_{n}"),
            on="unit_id",
            how="left",
        )
        .with_columns(pl.col(name).fill_null(0.0) for column in CUT for name in _both(column))
        .sort("unit_id")
    )
    if plan.winsorise is not None:
        units = units.with_columns(
            pl.col(name).clip(upper_bound=pl.col(name).quantile(plan.winsorise, "linear"))
            for column in CUT
            for name in _both(column)
        )
    return UnitTable(units, len(per_unit) - len(kept), unattributed)


def _both(column: str) -> tuple[str, str]:
    return column, f"pre_{column}"


def _with_units(exposures: pl.DataFrame, events: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Find each event's unit: its recommendation's, or else the only one of its user."""
    answered = exposures.select("recommendation_id", answered_unit="unit_id")
    pairs = exposures.select("user_id", "unit_id").drop_nulls().unique()
    users = pairs.group_by("user_id").agg(
        only_unit=pl.when(pl.len() == 1).then(pl.col("unit_id").first())
    )
    found = (
        events.join(answered, on="recommendation_id", how="left")
        .join(users.with_columns(is_exposed=pl.lit(True)), on="user_id", how="left")
        .with_columns(unit_id=pl.coalesce("answered_unit", "only_unit"))
    )
    lost = found.filter(pl.col("unit_id").is_null() & pl.col("is_exposed").fill_null(False))
    return found.drop_nulls("unit_id"), len(lost)


def _sum_exposures(exposures: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    followed = events.select("recommendation_id").drop_nulls().unique()
    shown = exposures.join(
        followed.with_columns(followed=pl.lit(1.0)), on="recommendation_id", how="left"
    )
    items = pl.col("video_ids").list.len().fill_null(0) + pl.col(
        "comment_ids"
    ).list.len().fill_null(0)
    return shown.group_by("unit_id").agg(
        arms=pl.col("arm").n_unique(),
        arm=pl.col("arm").first(),
        first_ms=pl.col("timestamp").min(),
        exposures=pl.len().cast(pl.Float64),
        followed=pl.col("followed").sum(),
        degraded=(pl.col("degraded").list.len().fill_null(0) > 0).sum().cast(pl.Float64),
        empty=(items == 0).sum().cast(pl.Float64),
        latency_ms=pl.col("latency_ms").sum(),
    )


def _sum_events(events: pl.DataFrame) -> pl.DataFrame:
    watched = pl.col("watch_time_ms").cast(pl.Float64)
    is_comment = pl.col("type").str.starts_with("comment_")
    return events.group_by("unit_id").agg(
        watch_time_ms=watched.sum(),
        comment_watch_time_ms=watched.filter(is_comment).sum(),
        video_watch_time_ms=watched.filter(~is_comment).sum(),
        video_events=(~is_comment).sum().cast(pl.Float64),
        comment_events=is_comment.sum().cast(pl.Float64),
        interactions=pl.col("type").is_in(INTERACTIONS).sum().cast(pl.Float64),
    )
