"""Writes small experiments for tests."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.definition import Definition
from analysis.tables import EVENTS, EXPOSURES, Tables, check_tables

START_MS = 1_764_547_200_000
DAY_MS = 86_400_000


def definition_of(**changes: Any) -> Definition:
    arms = [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5}]
    return Definition.model_validate({"name": "x", "arms": arms, "control": "a", **changes})


def exposure(number: str, user: str | None, arm: str, **changes: Any) -> dict[str, Any]:
    return {
        "recommendation_id": number,
        "unit_id": None,
        "user_id": user,
        "timestamp": START_MS,
        "experiment": "x",
        "arm": arm,
        "reason": "bucket",
        "model_version": f"model-{arm}",
        "endpoint": "videos",
        "video_ids": ["v1", "v2"],
        "comment_ids": [],
        "latency_ms": 4.0,
        "degraded": [],
        **changes,
    }


def event(user: str, *, at: int, kind: str = "comment_view", **changes: Any) -> dict[str, Any]:
    row = {"user_id": user, "timestamp": START_MS + at, "type": kind}
    return {**row, "watch_time_ms": None, "recommendation_id": None, **changes}


def tables_of(
    exposures: Iterable[dict[str, Any]],
    events: Iterable[dict[str, Any]],
    definition: Definition | None = None,
) -> Tables:
    return check_tables(
        pl.DataFrame(list(exposures), schema=EXPOSURES),
        pl.DataFrame(list(events), schema=EVENTS),
        definition or definition_of(),
        Path("exposures.parquet"),
    )


def units_of(
    rng: np.random.Generator, units: int, *, lift: float = 0.0, control_share: float = 0.5
) -> pl.DataFrame:
    """A unit table with a skewed value, a ratio, and a covariate; arm b has `lift` more."""
    taste_U = rng.gamma(2.0, 1.0, units)
    is_b_U = rng.random(units) >= control_share
    exposures_U = 1.0 + rng.poisson(3, units)
    factor_U = np.where(is_b_U, 1 + lift, 1.0)
    chance_U = np.clip(0.08 + 0.05 * taste_U, 0, 0.6)
    return pl.DataFrame(
        {
            "arm": np.where(is_b_U, "b", "a").tolist(),
            "comment_watch_time_ms": factor_U * taste_U * rng.gamma(2.0, 500.0, units),
            "pre_comment_watch_time_ms": taste_U * rng.gamma(2.0, 500.0, units),
            "exposures": exposures_U,
            "followed": rng.binomial(exposures_U.astype(int), chance_U * factor_U).astype(float),
        }
    )


def write_tables(
    folder: Path, exposures: list[dict[str, Any]], events: list[dict[str, Any]]
) -> None:
    folder.mkdir(exist_ok=True)
    pl.DataFrame(exposures, schema=EXPOSURES).write_parquet(folder / "exposures.parquet")
    table = pl.DataFrame(events, schema=EVENTS)
    is_video = pl.col("type").str.starts_with("video_")
    table.filter(is_video).write_parquet(folder / "video_events.parquet")
    table.filter(~is_video).write_parquet(folder / "comment_events.parquet")
