"""KuaiComt: short videos with comments and the users' likes on both, as four CSV files.

The event files are far longer than what is kept of them, so they are filtered while they are read.
"""

from dataclasses import replace
from pathlib import Path

import polars as pl

from lsvcr.errors import DataError
from training.dataset_checks import SourceTable
from training.dataset_folder import Dataset, build_dataset
from training.importers.source_rows import days_as_ms, leave_out_blank, seconds_as_ms
from training.table_files import SOURCE_ROW, check_columns

EVERY_ROW = pl.lit(True)


def import_kuaicomt(
    folder: Path, *, skip_bad_rows: bool = False, long_view: bool = False
) -> Dataset:
    """Read video_features, comment_features, user_video_inter and user_comment_inter (.csv).

    Advertisements go, with all that refers to them. Videos without a caption and comments without
    text are left out and listed in `skipped`; events on them go too. A comment event is a like or,
    where there was no like, a reply. `likes` is the published total, so it knows the future.

    Args:
        folder: Holds the four files.
        skip_bad_rows: As in `load_dataset`.
        long_view: Count videos watched long as positive, too, not only liked ones.

    Raises:
        DataError: As `load_dataset`.
    """
    features = _videos(folder)
    ads = features.rows.filter(pl.col("video_type") == "AD").select("video_id")
    videos = _without(features, ads, "video_id")
    comments = _without(_comments(folder), ads, "video_id")
    kept_videos, no_caption = leave_out_blank(videos, "title")
    kept_comments, no_text = leave_out_blank(comments, "text")

    gone_videos = _gone(features, kept_videos, "video_id")
    kept_comments = _without(kept_comments, gone_videos, "video_id")
    gone_comments = _gone(comments, kept_comments, "comment_id")
    comment_events = _without(_comment_events(folder), gone_videos, "video_id")
    sources = {
        "videos": kept_videos,
        "comments": kept_comments,
        "video_events": _without(_video_events(folder, long_view), gone_videos, "video_id"),
        "comment_events": _without(comment_events, gone_comments, "comment_id"),
    }
    dataset = build_dataset(sources, time_unit="ms", source="KuaiComt", skip_bad_rows=skip_bad_rows)
    return replace(dataset, skipped=pl.concat([no_caption, no_text, dataset.skipped]))


def _videos(folder: Path) -> SourceTable:
    return _read(
        folder / "video_features.csv",
        "video_id",
        "author_id",
        "video_type",
        "category",
        pl.col("caption").alias("title"),
        days_as_ms("upload_dt").alias("published_at"),
    )


def _comments(folder: Path) -> SourceTable:
    return _read(
        folder / "comment_features.csv",
        "comment_id",
        "video_id",
        pl.col("comment_content").alias("text"),
        pl.col("comment_like_cnt").alias("likes"),
    )


def _video_events(folder: Path, long_view: bool) -> SourceTable:
    is_liked = pl.col("is_like") == "1"
    return _read(
        folder / "user_video_inter.csv",
        "user_id",
        "video_id",
        pl.col("time_ms").alias("timestamp"),
        pl.when(is_liked).then(pl.lit("video_like")).otherwise(pl.lit("video_watch")).alias("type"),
        pl.col("play_time_ms").alias("watch_time_ms"),
        keep=is_liked | (pl.col("long_view") == "1") if long_view else is_liked,
    )


def _comment_events(folder: Path) -> SourceTable:
    is_liked, is_answered = pl.col("is_like") == "1", pl.col("is_reply") == "1"
    action = pl.when(is_liked).then(pl.lit("comment_like")).otherwise(pl.lit("comment_reply"))
    return _read(
        folder / "user_comment_inter.csv",
        "user_id",
        "comment_id",
        pl.col("photo_id").alias("video_id"),
        seconds_as_ms("time_stamp").alias("timestamp"),
        action.alias("type"),
        keep=is_liked | is_answered,
    )


def _read(path: Path, *columns: str | pl.Expr, keep: pl.Expr = EVERY_ROW) -> SourceTable:
    """Read the columns of the rows to keep, without ever holding the whole file.

    Raises:
        DataError: If the file or a column isn't there, or the file cannot be parsed.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    expressions = [pl.col(column) if isinstance(column, str) else column for column in columns]
    needed = [name for expr in (*expressions, keep) for name in expr.meta.root_names()]
    try:
        rows = pl.scan_csv(path, infer_schema=False, row_index_name=SOURCE_ROW, row_index_offset=1)
        check_columns(path, rows.collect_schema().names(), needed)
        kept = rows.filter(keep).select(SOURCE_ROW, *expressions)
        return SourceTable(str(path), kept.collect(engine="streaming"))
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _without(source: SourceTable, gone: pl.DataFrame, column: str) -> SourceTable:
    return SourceTable(source.file, source.rows.join(gone, on=column, how="anti"))


def _gone(before: SourceTable, after: SourceTable, column: str) -> pl.DataFrame:
    """Ids that were left out on purpose; events on them are no mistake of the data."""
    return before.rows.join(after.rows, on=column, how="anti").select(column)
