"""What a dataset folder must hold, and the checks that refuse a bad row or leave it out.

Every check is one polars expression or join over a whole table; a bad row is described by its file,
row, column, value and reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from lsvcr.errors import DataError
from lsvcr.history import COMMENT_EVENT_TYPES, VIDEO_EVENT_TYPES
from training.table_files import SOURCE_ROW

TimeUnit = Literal["ms", "position"]
"""Whether event timestamps are Unix milliseconds or say only the order of a user's events."""

MAX_ID_CHARACTERS = 128
EARLIEST_MS = 100_000_000_000
"""March 1973. A smaller number is almost certainly seconds, today some 1.8 thousand million."""
LATEST_MS = 4_102_444_800_000
"""1 January 2100. A larger number is micro- or nanoseconds."""

ALL_COMMENT_EVENT_TYPES = (*COMMENT_EVENT_TYPES, "comment_view")
"""Those that count as history, and the one that is only logged."""

SKIPPED_SCHEMA = {
    "file": pl.String,
    "row": pl.Int64,
    "column": pl.String,
    "value": pl.String,
    "reason": pl.String,
}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        kind: What it may hold. `event_time` follows the data set's time unit, `time` is always
            Unix milliseconds. Blank text counts as no value.
        required: Every row needs a value.
        types, default: For kind `type`, the accepted words and the one that stands in for none.
    """

    kind: Literal["id", "text", "time", "event_time", "count", "type"]
    required: bool = False
    types: tuple[str, ...] = ()
    default: str | None = None

    @property
    def dtype(self) -> type[pl.String] | type[pl.Int64]:
        """The polars type after loading."""
        return pl.Int64 if self.kind in ("time", "event_time", "count") else pl.String


@dataclass(frozen=True)
class Table:
    """Columns of a table, the one that names its rows, and the one that names another's rows."""

    columns: Mapping[str, Column]
    key: str | None = None
    reference: str | None = None


_ID = Column("id", required=True)
_TEXT = Column("text", required=True)
_EVENT_TIME = Column("event_time", required=True)

TABLES: Mapping[str, Table] = {
    "videos": Table(
        {
            "video_id": _ID,
            "title": _TEXT,
            "category": Column("text"),
            "author_id": Column("id"),
            "published_at": Column("time"),
        },
        key="video_id",
    ),
    "comments": Table(
        {
            "comment_id": _ID,
            "video_id": _ID,
            "text": _TEXT,
            "author_id": Column("id"),
            "created_at": Column("time"),
            "likes": Column("count"),
        },
        key="comment_id",
        reference="video_id",
    ),
    "video_events": Table(
        {
            "user_id": _ID,
            "video_id": _ID,
            "timestamp": _EVENT_TIME,
            "type": Column("type", types=VIDEO_EVENT_TYPES, default="video_like"),
            "watch_time_ms": Column("count"),
        },
        reference="video_id",
    ),
    "comment_events": Table(
        {
            "user_id": _ID,
            "comment_id": _ID,
            "timestamp": _EVENT_TIME,
            "type": Column("type", types=ALL_COMMENT_EVENT_TYPES, default="comment_like"),
        },
        reference="comment_id",
    ),
}


@dataclass(frozen=True)
class SourceTable:
    """Rows as they were read, under our column names, with `SOURCE_ROW`; `file` is for messages."""

    file: str
    rows: pl.DataFrame


def check_tables(
    sources: Mapping[str, SourceTable], time_unit: TimeUnit, *, skip_bad_rows: bool
) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """Check all four tables; bring them to their columns and types.

    Args:
        sources: By table name, all four.
        time_unit: What event timestamps are.
        skip_bad_rows: Leave bad rows out, and with them what refers to them.

    Returns:
        The checked tables by name, and the rows left out (`SKIPPED_SCHEMA`).

    Raises:
        DataError: At the first bad row unless `skip_bad_rows`; always if no video or no video event
            is left.
    """
    checked: dict[str, pl.DataFrame] = {}
    skipped = []
    for name, table in TABLES.items():
        known = None
        if table.reference:
            known = checked["comments" if table.reference == "comment_id" else "videos"]
        frame, bad = check_table(name, sources[name], known, time_unit)
        if len(bad) and not skip_bad_rows:
            raise DataError(describe_bad(bad))
        skipped.append(bad)
        checked[name] = frame
        if name in ("videos", "video_events") and not len(frame):
            left = f" after leaving out {len(bad):,}" if len(bad) else ""
            raise DataError(f"{sources[name].file}: no rows{left}; at least one is needed")
    return checked, pl.concat(skipped)


def check_table(
    name: str, source: SourceTable, known: pl.DataFrame | None, time_unit: TimeUnit
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bring one table to its columns and types, and part the good rows from the bad ones.

    Args:
        name: One of `TABLES`.
        known: Holds the ids that its rows may refer to.

    Returns:
        The good rows, and the others (`SKIPPED_SCHEMA`).

    Raises:
        DataError: If a column has an unusable type.
    """
    table = TABLES[name]
    frame = _cast(source, table)
    problems = [*_bad_values(frame, table, time_unit), *_bad_keys(frame, table, known)]
    bad = pl.concat(problems).unique("row", keep="first", maintain_order=True).sort("row")
    frame = frame.join(bad, left_on=SOURCE_ROW, right_on="row", how="anti").sort(SOURCE_ROW)
    bad = bad.select(pl.lit(source.file).alias("file"), pl.all())
    return frame.select(list(table.columns)), bad


def _cast(source: SourceTable, table: Table) -> pl.DataFrame:
    """Bring a table to its types; beside each number stays its text, to tell blank from wrong."""
    columns = [pl.col(SOURCE_ROW).cast(pl.Int64)]
    for name, column in table.columns.items():
        if name not in source.rows.columns:
            columns.append(pl.lit(None, column.dtype).alias(name))
            columns.append(pl.lit(None, pl.String).alias(f"{name}_text"))
            continue
        text = pl.col(name).cast(pl.String)
        text = pl.when(text.str.strip_chars() != "").then(text)
        columns.append(text.alias(f"{name}_text"))
        columns.append(
            pl.col(name).cast(pl.Int64, strict=False)
            if column.dtype is pl.Int64
            else text.alias(name)
        )
    try:
        frame = source.rows.select(columns)
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{source.file}: a column has an unusable type: {reason}") from error
    return frame.with_columns(
        pl.col(name).fill_null(column.default)
        for name, column in table.columns.items()
        if column.default
    )


def _bad_values(frame: pl.DataFrame, table: Table, time_unit: TimeUnit) -> Iterator[pl.DataFrame]:
    """Yield the rows that a single column's rules refuse, one frame a rule."""
    for name, column in table.columns.items():
        for reason, is_bad in _rules(name, column, time_unit):
            yield _problems(frame.filter(is_bad), name, reason)


def _rules(name: str, column: Column, time_unit: TimeUnit) -> Iterator[tuple[str, pl.Expr]]:
    """Yield (reason, expression that is true for bad rows) for one column."""
    value, text = pl.col(name), pl.col(f"{name}_text")
    if column.required:
        yield "is empty", text.is_null()
    if column.dtype is pl.Int64:
        yield "is not a whole number", text.is_not_null() & value.is_null()
    if column.kind == "id":
        yield (
            f"is longer than {MAX_ID_CHARACTERS} characters",
            (value.str.len_chars() > MAX_ID_CHARACTERS),
        )
        yield "holds a control character", value.str.contains(r"\p{Cc}")
    elif column.kind == "type":
        words = "|".join(column.types)
        yield f"is none of {', '.join(column.types)}", ~value.str.contains(f"^({words})$")
    elif column.kind == "count" or (column.kind == "event_time" and time_unit == "position"):
        yield "is negative", value < 0
    elif column.kind in ("time", "event_time"):
        yield "looks like seconds; times are Unix milliseconds", value.abs() < EARLIEST_MS
        yield "lies before 1973; times are Unix milliseconds", value <= -EARLIEST_MS
        yield "lies after 2099; times are Unix milliseconds", value >= LATEST_MS


def _bad_keys(
    frame: pl.DataFrame, table: Table, known: pl.DataFrame | None
) -> Iterator[pl.DataFrame]:
    """Yield rows with an id that an earlier row has, or that refer to an item that isn't there."""
    if table.key:
        repeated = frame.filter(
            pl.col(table.key).is_not_null() & ~pl.col(table.key).is_first_distinct()
        )
        yield _problems(repeated, table.key, "is a duplicate: an earlier row has the same id")
    if table.reference and known is not None:
        item = table.reference.removesuffix("_id")
        unknown = frame.join(known, on=table.reference, how="anti")
        yield _problems(unknown, table.reference, f"names an unknown {item}")


def _problems(rows: pl.DataFrame, column: str, reason: str) -> pl.DataFrame:
    return rows.select(
        pl.col(SOURCE_ROW).alias("row"),
        pl.lit(column).alias("column"),
        pl.col(f"{column}_text").str.slice(0, 80).alias("value"),
        pl.lit(reason).alias("reason"),
    )


def describe_bad(bad: pl.DataFrame) -> str:
    """Say what is wrong with the first bad row, and how many more there are."""
    file, row, column, value, reason = bad.row(0)
    found = "" if value is None else f" (found {value!r})"
    message = f"{file}: row {row}, column {column}: {reason}{found}"
    if len(bad) > 1:
        message += f"; {len(bad) - 1:,} more bad rows in this file"
    return message
