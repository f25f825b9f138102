"""Entries of the service's two logs, of events and of exposures, as tables."""

import io
from collections.abc import Sequence

import polars as pl

from analysis.tables import Columns

EVENT_ENTRY: Columns = {
    "event_id": pl.String,
    "user_id": pl.String,
    "type": pl.String,
    "timestamp": pl.Int64,
    "video_id": pl.String,
    "comment_id": pl.String,
    "recommendation_id": pl.String,
    "watch_time_ms": pl.Int64,
    "value": pl.Float64,
}

EXPOSURE_ENTRY: Columns = {
    "recommendation_id": pl.String,
    "timestamp": pl.Int64,
    "endpoint": pl.String,
    "model_version": pl.String,
    "source": pl.String,
    "k": pl.Int64,
    "latency_ms": pl.Float64,
    "user_id": pl.String,
    "unit_id": pl.String,
    "experiments": pl.List(
        pl.Struct({"experiment": pl.String, "arm": pl.String, "reason": pl.String})
    ),
    "video_ids": pl.List(pl.String),
    "comment_ids": pl.List(pl.String),
    "scores": pl.List(pl.Float64),
    "on_video": pl.String,
    "history_used": pl.List(pl.Int64),
    "degraded": pl.List(pl.String),
    "is_shadow": pl.Boolean,
}

VIDEO_EVENTS = ("event_id", "user_id", "video_id", "timestamp", "type", "watch_time_ms", "value")
COMMENT_EVENTS = tuple("comment_id" if name == "video_id" else name for name in VIDEO_EVENTS)

KEYS = {
    "video_events": ["user_id", "event_id"],
    "comment_events": ["user_id", "event_id"],
    "exposures": ["recommendation_id", "experiment"],
    "shadow_exposures": ["recommendation_id", "experiment", "arm"],
}
"""What makes an entry the same as another: each may be in the log more than once."""


def read_events(entries: Sequence[bytes]) -> dict[str, pl.DataFrame]:
    """Split events into those on videos and those on comments."""
    rows = _parse(entries, EVENT_ENTRY)
    is_video = pl.col("type").str.starts_with("video_")
    return {
        "video_events": rows.filter(is_video).select(*VIDEO_EVENTS, "recommendation_id"),
        "comment_events": rows.filter(~is_video).select(*COMMENT_EVENTS, "recommendation_id"),
    }


def read_exposures(entries: Sequence[bytes]) -> dict[str, pl.DataFrame]:
    """A row for each answer and experiment it was in; one for an answer that was in none."""
    lists = ("video_ids", "comment_ids", "scores", "degraded", "history_used")
    rows = (
        _parse(entries, EXPOSURE_ENTRY)
        .with_columns(*(pl.col(name).fill_null([]) for name in lists))
        .explode("experiments")
        .unnest("experiments")
    )
    is_shadow = pl.col("is_shadow").fill_null(False)
    return {
        "exposures": rows.filter(~is_shadow).drop("is_shadow"),
        "shadow_exposures": rows.filter(is_shadow).drop("is_shadow"),
    }


def _parse(entries: Sequence[bytes], schema: Columns) -> pl.DataFrame:
    if not entries:
        return pl.DataFrame(schema=schema)
    return pl.read_ndjson(io.BytesIO(b"\n".join(entries)), schema=schema)
