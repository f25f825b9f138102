"""Exported exposures and events, read and checked."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from analysis.definition import Definition
from lsvcr.errors import DataError

Columns = dict[str, pl.DataType | type[pl.DataType]]

EXPOSURES: Columns = {
    "recommendation_id": pl.String,
    "unit_id": pl.String,
    "user_id": pl.String,
    "timestamp": pl.Int64,
    "experiment": pl.String,
    "arm": pl.String,
    "reason": pl.String,
    "model_version": pl.String,
    "endpoint": pl.String,
    "video_ids": pl.List(pl.String),
    "comment_ids": pl.List(pl.String),
    "latency_ms": pl.Float64,
    "degraded": pl.List(pl.String),
}
"""Columns of `exposures.parquet`: a row for each answer and experiment that it was in."""

EVENTS: Columns = {
    "user_id": pl.String,
    "timestamp": pl.Int64,
    "type": pl.String,
    "watch_time_ms": pl.Int64,
    "recommendation_id": pl.String,
}
"""Columns of `video_events.parquet` and `comment_events.parquet` that are read."""

NEVER_NULL = {
    "exposures": ("recommendation_id", "timestamp", "latency_ms"),
    "events": ("user_id", "timestamp", "type"),
}


@dataclass(frozen=True)
class Tables:
    """One experiment's exposures, and everybody's events.

    Attributes:
        exposures: As `EXPOSURES`; `unit_id` is never null.
        events: As `EVENTS`.
    """

    exposures: pl.DataFrame
    events: pl.DataFrame


def load_tables(folder: Path, definition: Definition) -> Tables:
    """Read `exposures.parquet` and the two tables of events.

    Raises:
        DataError: If a file, a column or a value doesn't fit; names it.
    """
    video_events = _read(folder / "video_events.parquet", EVENTS, "events")
    comment_events = _read(folder / "comment_events.parquet", EVENTS, "events")
    path = folder / "exposures.parquet"
    exposures = _read(path, EXPOSURES, "exposures")
    return check_tables(exposures, pl.concat([video_events, comment_events]), definition, path)


def check_tables(
    exposures: pl.DataFrame, events: pl.DataFrame, definition: Definition, path: Path
) -> Tables:
    """Keep one experiment's exposures, the first of each recommendation, nobody's forced arm.

    Args:
        exposures: As `EXPOSURES`.
        events: As `EVENTS`.
        definition: Names the experiment and its arms.
        path: Where the exposures are from, for errors.

    Raises:
        DataError: If an arm isn't in the definition, or there are no exposures, or one of nobody.
    """
    exposures = (
        exposures.filter(
            pl.col("experiment") == definition.name,
            pl.col("reason").ne_missing("forced"),
            pl.col("timestamp") >= definition.created_at,
        )
        .with_columns(unit_id=pl.coalesce("unit_id", "user_id"))
        .sort("timestamp", "recommendation_id")
        .unique("recommendation_id", keep="first", maintain_order=True)
    )
    if exposures.is_empty():
        raise DataError(f"{path}: no exposures of experiment {definition.name!r}")
    nobody = exposures.filter(pl.col("unit_id").is_null())
    if len(nobody):
        which = nobody["recommendation_id"][0]
        raise DataError(f"{path}: recommendation {which!r} has neither unit_id nor user_id")
    known = list(definition.weights)
    strange = exposures.filter(~pl.col("arm").is_in(known).fill_null(False))
    if len(strange):
        raise DataError(f"{path}: column arm: {strange['arm'][0]!r} is none of {known}")
    return Tables(exposures, events)


def _read(path: Path, columns: Columns, kind: str) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: not a Parquet file") from error
    for name in columns:
        if name not in table.columns:
            raise DataError(f"{path}: no column {name!r}")
    try:
        table = table.select(pl.col(name).cast(kind_) for name, kind_ in columns.items())
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}") from error
    for name in NEVER_NULL[kind]:
        empty = table[name].is_null().arg_max()
        if table[name].null_count() and empty is not None:
            raise DataError(f"{path}: row {empty + 1}: {name} is empty")
    return table
