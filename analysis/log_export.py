"""Reads the service's logs from its store and adds them to a folder of tables.

The folder is what the report reads and, with the items of a base, a dataset folder for the next
training. `export.json` in it says how far each stream was read: the next export goes on from there.
It is written last, so what a crash leaves behind is read again, and known again by its key.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from redis import Redis, RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from analysis.log_tables import KEYS, read_events, read_exposures
from lsvcr.errors import DataError

STATE_FILE, _LOCK = "export.json", ".export.lock"
PAGE = 5_000
CLUSTER = "+cluster"
TIMEOUT_S = 60

Store = Redis | RedisCluster
ITEMS = {
    "video_events": ("videos", "video_id"),
    "comment_events": ("comments", "comment_id"),
}
"""By table of events: the table of its items, and their key."""

_READ: Mapping[str, Callable[[list[bytes]], dict[str, pl.DataFrame]]] = {
    "event": read_events,
    "exposure": read_exposures,
}
"""By field of a stream's entries, which names the log's streams as well: `lsvcr:events:N`."""


@dataclass
class Exported:
    """What an export did.

    Attributes:
        added: New rows by table.
        lost: Entries that the store had dropped or erased before they were read.
        left_out: Events on items that the tables of items don't have.
    """

    added: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Cursor:
    """How far a stream was read.

    Attributes:
        last_id: Of the newest entry that was read.
        entries: How many had been added to the stream by then; None before the first export.
    """

    last_id: str
    entries: int | None


def connect(url: str) -> Store:
    """Connect to the service's store, by the URL that the service has.

    Raises:
        DataError: If it isn't one, or the cluster can't be reached.
    """
    try:
        if CLUSTER in url:
            at = url.replace(CLUSTER, "", 1)
            return RedisCluster.from_url(at, socket_timeout=TIMEOUT_S, protocol=2)
        return Redis.from_url(url, socket_timeout=TIMEOUT_S, protocol=2)
    except (RedisError, RedisClusterException, ValueError) as error:
        raise DataError(f"the store cannot be read: {error}") from error


def export_log(
    redis: Store, folder: Path, *, since_ms: int = 0, base: Path | None = None
) -> Exported:
    """Add what is new in the logs to a folder's tables.

    Args:
        redis: The service's store; its answers as bytes.
        folder: Made if it isn't there.
        since_ms: Where the first export begins, by the time that entries were written.
        base: A dataset folder whose items and events a new folder begins with. Events on other
            items are then left out: training needs their texts.

    Raises:
        DataError: If the store or a file can't be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers that share a folder take turns
        return _export(redis, folder, since_ms, base)


def _export(redis: Store, folder: Path, since_ms: int, base: Path | None) -> Exported:
    if base is not None and not (folder / "videos.parquet").is_file():
        _begin_with(base, folder)
    exported, cursors = Exported(), _read_cursors(folder)
    new = {name: [rows] for name, rows in (read_events([]) | read_exposures([])).items()}
    try:
        for name, read in _READ.items():
            for stream in sorted(redis.scan_iter(match=f"lsvcr:{name}s:[0-9]*")):
                before = cursors.get(stream.decode(), Cursor(f"{since_ms}-0", None))
                entries, after = _read_stream(redis, stream, before)
                if before.entries is not None and after.entries is not None:
                    exported.lost += max(0, after.entries - before.entries - len(entries))
                cursors[stream.decode()] = after
                for table, rows in read([fields[name.encode()] for fields in entries]).items():
                    new[table].append(rows)
    except (RedisError, RedisClusterException) as error:
        raise DataError(f"the store cannot be read: {error}") from error
    for table, parts in new.items():
        _add(folder, table, pl.concat(parts), exported)
    state = {stream: asdict(cursor) for stream, cursor in cursors.items()}
    _replace(folder / STATE_FILE, lambda path: path.write_text(json.dumps(state, indent=2) + "\n"))
    return exported


def _read_stream(
    redis: Store, stream: bytes, before: Cursor
) -> tuple[list[dict[bytes, bytes]], Cursor]:
    """Read a stream's entries after a cursor, up to the newest there is now."""
    info: Any = redis.xinfo_stream(stream)
    last_id = info["last-generated-id"].decode()
    entries: list[dict[bytes, bytes]] = []
    for page in _pages(redis, stream, before.last_id, last_id):
        entries += [fields for _, fields in page]
    return entries, Cursor(last_id, int(info["entries-added"]))


def _pages(
    redis: Store, stream: bytes, after_id: str, last_id: str
) -> Iterator[list[tuple[bytes, dict[bytes, bytes]]]]:
    start = f"({after_id}"
    while True:
        page: Any = redis.xrange(stream, min=start, max=last_id, count=PAGE)
        yield page
        if len(page) < PAGE:
            return
        start = f"({page[-1][0].decode()}"


def _begin_with(base: Path, folder: Path) -> None:
    """Copy a dataset folder's tables; events without an id get one of their own."""
    for name in ("videos", "comments", *ITEMS):
        try:
            rows = pl.read_parquet(base / f"{name}.parquet")
        except FileNotFoundError as error:
            if name.startswith("comment"):
                continue
            raise DataError(f"{base}: {name}.parquet is missing") from error
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{base / name}.parquet: not a Parquet file") from error
        if name in ITEMS:
            if "event_id" not in rows.columns:
                number = pl.int_range(pl.len()).cast(pl.String)
                rows = rows.with_columns(event_id=pl.lit(f"{name}/") + number)
            rows = pl.concat([_empty(name), rows], how="diagonal_relaxed")
        _replace(folder / f"{name}.parquet", rows.write_parquet)


def _add(folder: Path, table: str, new: pl.DataFrame, exported: Exported) -> None:
    """Append rows that aren't there yet."""
    path = folder / f"{table}.parquet"
    before = pl.read_parquet(path) if path.is_file() else _empty(table)
    if table in ITEMS and (folder / "videos.parquet").is_file():
        items, key = ITEMS[table]
        found = len(new)
        new = new.join(pl.read_parquet(folder / f"{items}.parquet"), on=key, how="semi")
        exported.left_out += found - len(new)
    rows = pl.concat([before, new], how="diagonal").unique(
        KEYS[table], keep="first", maintain_order=True
    )
    exported.added[table] = len(rows) - len(before)
    _replace(path, rows.write_parquet)


def _empty(table: str) -> pl.DataFrame:
    return (read_events([]) | read_exposures([]))[table]


def _read_cursors(folder: Path) -> dict[str, Cursor]:
    path = folder / STATE_FILE
    if not path.is_file():
        return {}
    try:
        return {name: Cursor(**cursor) for name, cursor in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not what an export wrote") from error


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside, then rename."""
    beside = path.with_name(f".{path.name}.partial")
    write(beside)
    os.replace(beside, path)
