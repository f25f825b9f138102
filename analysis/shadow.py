"""How a shadow arm's answers differ from those that were shown: a look before anybody meets it."""

from pathlib import Path

import polars as pl
from pydantic import BaseModel

from lsvcr.errors import DataError


class ShadowSummary(BaseModel):
    """One shadow arm beside what was shown, answer by answer.

    Attributes:
        answers: Pairs that are compared.
        overlap: Mean share of the shown items that the shadow would have shown, too; of answers
            that showed something.
        same_first: Share of answers whose first item is the same.
        latency_ms, shown_latency_ms: Means. What was shown is timed from the request's arrival, the
            shadow from when it is asked.
        empty, shown_empty, degraded, shown_degraded: Shares of answers.
    """

    arm: str
    model_versions: list[str]
    answers: int
    overlap: float | None
    same_first: float | None
    latency_ms: float
    shown_latency_ms: float
    empty: float
    shown_empty: float
    degraded: float
    shown_degraded: float


def compare_shadows(folder: Path, experiment: str) -> list[ShadowSummary]:
    """Compare every shadow arm of an experiment with the answers it ran beside.

    Args:
        folder: As an export writes it.
        experiment: By name.

    Raises:
        DataError: If a table can't be read, or there is nothing to compare.
    """
    shown = _read(folder / "exposures.parquet").unique("recommendation_id", keep="first")
    shadows = _read(folder / "shadow_exposures.parquet").filter(pl.col("experiment") == experiment)
    pairs = shadows.join(shown, on="recommendation_id", suffix="_shown")
    if pairs.is_empty():
        raise DataError(f"{folder}: no answers of shadow arms of experiment {experiment!r}")
    return [
        _summarise(str(arm), rows)
        for (arm,), rows in sorted(pairs.group_by("arm"), key=lambda pair: str(pair[0][0]))
    ]


def _summarise(arm: str, pairs: pl.DataFrame) -> ShadowSummary:
    ours, theirs = pl.col("items"), pl.col("items_shown")
    full = pairs.filter(theirs.list.len() > 0)
    common = ours.list.set_intersection(theirs).list.len() / theirs.list.len()
    overlap, same_first = full.select(
        common.mean(), (ours.list.first() == theirs.list.first()).fill_null(False).mean().alias("f")
    ).row(0)
    figures = pairs.select(
        pl.col("latency_ms", "latency_ms_shown").mean(),
        empty=(ours.list.len() == 0).mean(),
        shown_empty=(theirs.list.len() == 0).mean(),
        degraded=(pl.col("degraded").list.len() > 0).mean(),
        shown_degraded=(pl.col("degraded_shown").list.len() > 0).mean(),
    ).row(0, named=True)
    return ShadowSummary(
        arm=arm,
        model_versions=sorted(pairs["model_version"].unique()),
        answers=len(pairs),
        overlap=overlap,
        same_first=same_first,
        shown_latency_ms=figures.pop("latency_ms_shown"),
        **figures,
    )


def _read(path: Path) -> pl.DataFrame:
    """Read answers; their items are the videos, or the comments where only these were asked for."""
    try:
        rows = pl.read_parquet(path)
        items = pl.when(endpoint="comments").then("comment_ids").otherwise("video_ids")
        columns = ("recommendation_id", "experiment", "arm", "model_version", "latency_ms")
        return rows.select(*columns, "degraded", items=items)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; python -m analysis export writes it") from error
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path}: not what an export writes: {str(error).splitlines()[0]}"
        ) from error
