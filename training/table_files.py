"""Reads one table from Parquet, CSV or CSV.gz; an unreadable file is named with the reason."""

import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lsvcr.errors import DataError

SOURCE_ROW = "source_row"
"""Column added to every table read: the row's number in its file, from 1, header not counted."""

ENDINGS = (".parquet", ".csv", ".csv.gz")


def find_table(folder: Path, name: str) -> Path | None:
    """Find `name`.parquet, `name`.csv or `name`.csv.gz in a folder.

    Raises:
        DataError: If there is more than one: which of them is meant cannot be known.
    """
    found = [
        folder / f"{name}{ending}" for ending in ENDINGS if (folder / f"{name}{ending}").is_file()
    ]
    if len(found) > 1:
        raise DataError(f"{folder}: both {found[0].name} and {found[1].name} are there; keep one")
    return found[0] if found else None


def need_table(folder: Path, name: str) -> Path:
    """Find a table that must be there.

    Raises:
        DataError: If the folder or the table isn't there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if (path := find_table(folder, name)) is None:
        names = ", ".join(name + ending for ending in ENDINGS)
        raise DataError(f"{folder}: the table {name} is missing (looked for {names})")
    return path


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> pl.DataFrame:
    """Read the named columns of a table, with `SOURCE_ROW` in front; other columns are left out.

    Every column of a CSV comes as text, so that the caller can name a value it doesn't accept.

    Raises:
        DataError: If the file is empty, damaged or not UTF-8, or a required column is missing.
    """
    try:
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read: {reason}") from error
    check_columns(path, frame.columns, required)
    names = [name for name in (*required, *optional) if name in frame.columns]
    return frame.select(names).with_row_index(SOURCE_ROW, offset=1)


def check_columns(path: Path, found: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a table without a required column.

    Raises:
        DataError: Naming the file, the column and the columns that are there.
    """
    for name in required:
        if name not in found:
            raise DataError(f"{path}: column {name} is missing (found: {', '.join(found)})")


def _read_csv(path: Path) -> pl.DataFrame:
    """Parse a CSV as text columns; polars itself would take a cut-off gzip without complaint."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip: {error}") from error
    if not content.strip():
        raise DataError(f"{path}: the file is empty")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = content[error.start : error.end]
        raise DataError(f"{path}: line {line}: not UTF-8 (found the bytes {wrong!r})") from error
    return pl.read_csv(io.BytesIO(content), infer_schema=False)
