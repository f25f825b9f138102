"""gatherer-comments: what people wrote under the pages of a card game, 2008 to 2014.

A card is a video, and commenting on it (the first time) a video event: there is no log of views.
A comment event is a comment the user wrote; on request also, where the comment answers somebody
else's, a reply to that one.
"""

from dataclasses import replace
from pathlib import Path

import polars as pl

from training.dataset_checks import SourceTable
from training.dataset_folder import Dataset, build_dataset
from training.importers.source_rows import days_as_ms, leave_out_blank
from training.table_files import SOURCE_ROW, need_table, read_table


def import_gatherer(folder: Path, *, skip_bad_rows: bool = False, replies: bool = False) -> Dataset:
    """Read videos.csv.gz, comments.csv.gz and interactions.csv.gz.

    Comments without text are left out and listed in `skipped`, replies to them ignored. `likes`
    is the sum of a comment's votes (1 to 10 each). Comments known from archived pages alone have
    no sum but a mean; it counts as one vote. These are final totals, fit to order popular lists,
    not to be seen by a model.

    Args:
        folder: Where the three files lie.
        skip_bad_rows: As `load_dataset`.
        replies: Make answering somebody's comment an event on that comment too. The reference
            figures of this data set were measured without.

    Raises:
        DataError: As `load_dataset`.
    """
    comments = _comments(folder)
    written, left_out = leave_out_blank(comments, "text")
    textless = comments.rows.join(written.rows, on="comment_id", how="anti")
    sources = {
        "videos": _videos(folder),
        "comments": written,
        "video_events": _video_events(folder),
        "comment_events": _with_replies(written, textless) if replies else _written(written),
    }
    dataset = build_dataset(
        sources, time_unit="ms", source="gatherer-comments", skip_bad_rows=skip_bad_rows
    )
    return replace(dataset, skipped=pl.concat([left_out, dataset.skipped]))


def _videos(folder: Path) -> SourceTable:
    path = need_table(folder, "videos")
    rows = read_table(path, ("video_id", "title", "category", "first_set_date"))
    return SourceTable(
        str(path), rows.with_columns(days_as_ms("first_set_date").alias("published_at"))
    )


def _comments(folder: Path) -> SourceTable:
    path = need_table(folder, "comments")
    columns = ("comment_id", "video_id", "author_id", "timestamp", "text")
    rows = read_table(path, (*columns, "vote_sum", "mean_vote", "reply_to_comment_id"))
    one_vote = pl.col("mean_vote").cast(pl.Float64, strict=False).round().cast(pl.Int64)
    return SourceTable(
        str(path),
        rows.with_columns(
            pl.col("timestamp").alias("created_at"),
            pl.coalesce("vote_sum", one_vote.cast(pl.String)).alias("likes"),
        ),
    )


def _video_events(folder: Path) -> SourceTable:
    path = need_table(folder, "interactions")
    return SourceTable(str(path), read_table(path, ("user_id", "video_id", "timestamp")))


def _written(written: SourceTable) -> SourceTable:
    """Each comment once, as written by its author."""
    return SourceTable(
        written.file,
        written.rows.rename({"author_id": "user_id"}).select(
            SOURCE_ROW, "user_id", "comment_id", "timestamp", pl.lit("comment_write").alias("type")
        ),
    )


def _with_replies(written: SourceTable, textless: pl.DataFrame) -> SourceTable:
    """Each comment as written by its author, and once more where it is a reply."""
    rows = written.rows.rename({"author_id": "user_id"})
    replied = rows.filter(pl.col("reply_to_comment_id").is_not_null()).join(
        textless, left_on="reply_to_comment_id", right_on="comment_id", how="anti"
    )
    replies = replied.select(
        SOURCE_ROW,
        "user_id",
        pl.col("reply_to_comment_id").alias("comment_id"),
        "timestamp",
        pl.lit("comment_reply").alias("type"),
    )
    return SourceTable(written.file, pl.concat([_written(written).rows, replies]))
