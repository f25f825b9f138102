"""The dataset folder: videos, comments and both kinds of events, checked when read.

folder/
  dataset.json                     source, time unit, counts   (optional when read)
  videos.parquet                   or .csv or .csv.gz, as every table
  video_events.parquet
  comments.parquet                 both absent in a data set without comments
  comment_events.parquet
"""

import hashlib
import io
import json
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from lsvcr.errors import DataError
from training.dataset_checks import (
    SKIPPED_SCHEMA,
    TABLES,
    SourceTable,
    TimeUnit,
    check_tables,
)
from training.table_files import SOURCE_ROW, find_table, need_table, read_table

DESCRIPTION_FILE = "dataset.json"
OTHER_COMMENTS = 10


@dataclass(frozen=True)
class Dataset:
    """One data set in memory. Every optional column is there, empty values are null.

    Attributes:
        videos: video_id, title, category, author_id, published_at.
        comments: comment_id, video_id, text, author_id, created_at, likes.
        video_events: user_id, video_id, timestamp, type, watch_time_ms.
        comment_events: user_id, comment_id, timestamp, type.
        time_unit: `ms`: event timestamps are Unix milliseconds; `position`: they only order the
            events of one user and can't be compared between users. `published_at` and `created_at`
            are always Unix milliseconds.
        source: Where it came from, in a few words.
        skipped: Rows left out while making this data set: file, row, column, value, reason.
    """

    videos: pl.DataFrame
    comments: pl.DataFrame
    video_events: pl.DataFrame
    comment_events: pl.DataFrame
    time_unit: TimeUnit = "ms"
    source: str = "unknown"
    skipped: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SKIPPED_SCHEMA))

    def counts(self) -> dict[str, int]:
        """Rows of each table."""
        return {name: len(getattr(self, name)) for name in TABLES}


def load_dataset(folder: Path, *, skip_bad_rows: bool = False) -> Dataset:
    """Read a dataset folder and check every row.

    Args:
        folder: Holds the tables as Parquet, CSV or CSV.gz.
        skip_bad_rows: Leave bad rows out, with whatever refers to them, and list them in
            `Dataset.skipped`, instead of refusing the folder.

    Raises:
        DataError: Naming file, row, column and value of the first thing wrong.
    """
    time_unit, source = _read_description(folder / DESCRIPTION_FILE)
    sources = {}
    for name, table in TABLES.items():
        optional_table = name in ("comments", "comment_events")
        path = find_table(folder, name) if optional_table else need_table(folder, name)
        if path is None:
            rows = pl.DataFrame(schema={SOURCE_ROW: pl.UInt32})
            sources[name] = SourceTable(str(folder / name), rows)
            continue
        required = [column for column, rule in table.columns.items() if rule.required]
        optional = [column for column, rule in table.columns.items() if not rule.required]
        sources[name] = SourceTable(str(path), read_table(path, required, optional))
    return build_dataset(sources, time_unit=time_unit, source=source, skip_bad_rows=skip_bad_rows)


def build_dataset(
    sources: dict[str, SourceTable],
    *,
    time_unit: TimeUnit,
    source: str,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Check four tables of source rows and put them together; raises as `load_dataset` does."""
    checked, skipped = check_tables(sources, time_unit, skip_bad_rows=skip_bad_rows)
    return Dataset(**checked, time_unit=time_unit, source=source, skipped=skipped)


def write_dataset(dataset: Dataset, folder: Path, *, overwrite: bool = False) -> None:
    """Write a dataset folder as Parquet: all of it appears at once, or nothing does.

    Raises:
        DataError: If `refuse_target` refuses the folder.
    """
    refuse_target(folder, overwrite=overwrite)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        written = Path(beside, "new")
        written.mkdir()
        for name in TABLES:
            getattr(dataset, name).write_parquet(written / f"{name}.parquet")
        description = {
            "source": dataset.source,
            "time_unit": dataset.time_unit,
            "counts": dataset.counts(),
            "skipped": len(dataset.skipped),
        }
        (written / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")
        if folder.exists():
            os.rename(folder, Path(beside, "old"))
        os.rename(written, folder)


def refuse_target(folder: Path, *, overwrite: bool) -> None:
    """Refuse to write where something else would be lost; call it before work that takes long.

    Raises:
        DataError: If `folder` isn't a folder, or isn't empty and `overwrite` is off, or holds
            anything but the files of a dataset folder written by us.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file, not a folder")
    found = {path.name for path in folder.iterdir()}
    if found and not overwrite:
        raise DataError(f"{folder}: is not empty; --force replaces a dataset folder")
    if foreign := found - {DESCRIPTION_FILE, *(f"{name}.parquet" for name in TABLES)}:
        raise DataError(f"{folder}: holds {min(foreign)}, so it is not replaced")


def sample_users(dataset: Dataset, count: int, seed: int, *, min_events: int = 5) -> Dataset:
    """Keep a random sample of users and as much of the catalogue as a short run can read.

    Users are drawn among those with at least `min_events` video events. Kept are the videos that
    have at least `min_events` events of theirs (a k-core would drop the others anyway), their
    events on these, the comments under these that they have events on, and of the other comments
    at most `OTHER_COMMENTS` drawn at random a video: enough to rank among. Most of the time of a
    run goes into reading texts, and whole threads of popular videos hold nearly all of them.

    Args:
        dataset: Stays as it is.
        count: Users to draw; all of them if there are not as many.
        seed: The same seed draws the same.
        min_events: The k of the k-core that the run is going to apply.

    Raises:
        DataError: If no video is left: the users drawn share too few.
    """
    video_events, comments = dataset.video_events, dataset.comments
    active = video_events.group_by("user_id").len().filter(pl.col("len") >= min_events)
    users = active.select("user_id").sort("user_id")
    users = users.sample(min(count, len(users)), seed=seed)
    video_events = video_events.join(users, on="user_id", how="semi")
    video_events = video_events.filter(pl.len().over("video_id") >= min_events)
    if not len(video_events):
        raise DataError(
            f"{dataset.source}: {len(users):,} users drawn with seed {seed} share no video "
            f"{min_events} times; draw more"
        )
    comments = comments.join(video_events, on="video_id", how="semi")
    comment_events = dataset.comment_events.join(users, on="user_id", how="semi")
    comment_events = comment_events.join(comments, on="comment_id", how="semi")
    others = comments.join(comment_events, on="comment_id", how="anti").sort("comment_id")
    others = others.sample(fraction=1, shuffle=True, seed=seed)
    others = others.filter(pl.int_range(pl.len()).over("video_id") < OTHER_COMMENTS)
    kept = pl.concat([comment_events.select("comment_id"), others.select("comment_id")])
    return replace(
        dataset,
        videos=dataset.videos.join(video_events, on="video_id", how="semi"),
        comments=comments.join(kept, on="comment_id", how="semi"),
        video_events=video_events,
        comment_events=comment_events,
        source=f"{dataset.source}, {len(users):,} users drawn with seed {seed}",
    )


def fingerprint(dataset: Dataset) -> str:
    """Hash the content (SHA-256, hexadecimal), whatever the order of rows and the kind of file."""
    digest = hashlib.sha256(dataset.time_unit.encode())
    for name, table in TABLES.items():
        content = io.BytesIO()
        getattr(dataset, name).sort(list(table.columns)).write_csv(content)
        digest.update(hashlib.sha256(content.getbuffer()).digest())
    return digest.hexdigest()


def _read_description(path: Path) -> tuple[TimeUnit, str]:
    """Read time unit and source; a folder made by hand may do without the file."""
    source = path.parent.absolute().name
    if not path.is_file():
        return "ms", source
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: must be a JSON object (found {found!r})")
    time_unit = found.get("time_unit", "ms")
    if time_unit not in ("ms", "position"):
        raise DataError(f"{path}: time_unit must be ms or position (found {time_unit!r})")
    source = found.get("source", source)
    if not isinstance(source, str):
        raise DataError(f"{path}: source must be text (found {source!r})")
    return time_unit, source
