"""MovieLens 1M as ordered sequences: films as videos, no comments, no times but the order."""

from pathlib import Path

import polars as pl

from training.dataset_checks import SourceTable
from training.dataset_folder import Dataset, build_dataset
from training.table_files import SOURCE_ROW, need_table, read_table


def import_movielens(folder: Path, *, skip_bad_rows: bool = False) -> Dataset:
    """Read videos.csv.gz and interactions.csv.gz; an event's timestamp is its position.

    `category` holds all of a film's genres as the source writes them (`Comedy|Romance`).

    Raises:
        DataError: As `load_dataset`.
    """
    videos_path = need_table(folder, "videos")
    events_path = need_table(folder, "interactions")
    events = read_table(events_path, ("user_id", "video_id", "position"))
    empty = SourceTable("no comments", pl.DataFrame(schema={SOURCE_ROW: pl.UInt32}))
    sources = {
        "videos": SourceTable(
            str(videos_path), read_table(videos_path, ("video_id", "title", "category"))
        ),
        "comments": empty,
        "video_events": SourceTable(str(events_path), events.rename({"position": "timestamp"})),
        "comment_events": empty,
    }
    return build_dataset(
        sources, time_unit="position", source="MovieLens 1M", skip_bad_rows=skip_bad_rows
    )
