"""Events that wait to be sent, in an SQLite file: they outlive this process and the machine's."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from lsvcr_client.errors import SpoolError

_SCHEMA = "CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY AUTOINCREMENT, event BLOB)"
_WAITING = """
    SELECT coalesce((SELECT max(number) FROM events) - (SELECT min(number) FROM events) + 1, 0)
"""


class Spool:
    """A queue of events; threads and processes may share its file.

    What `append` returned from is on the disk. Every method raises SpoolError.

    Args:
        path: Of the file, made where it isn't there.
        max_events: More than these aren't taken.
    """

    def __init__(self, path: Path, *, max_events: int) -> None:
        self._path = path
        self._max_events = max_events
        self._lock = threading.Lock()
        with self._told():
            # Autocommit: each statement outside of BEGIN is a transaction of its own.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_SCHEMA)

    def append(self, events: Sequence[bytes]) -> None:
        """Keep events, all or none."""
        with self._lock, self._told():
            waiting = self._waiting()
            if waiting + len(events) > self._max_events:
                raise SpoolError(f"{self._path} is full: {waiting:,} events wait to be sent")
            with self._transaction():
                rows = ((event,) for event in events)
                self._db.executemany("INSERT INTO events (event) VALUES (?)", rows)

    def head(self, count: int) -> list[tuple[int, bytes]]:
        """The oldest events, with their numbers."""
        query = "SELECT number, event FROM events ORDER BY number LIMIT ?"
        with self._lock, self._told():
            return self._db.execute(query, (count,)).fetchall()

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget events that need not be sent again."""
        with self._lock, self._told(), self._transaction():
            rows = ((number,) for number in numbers)
            self._db.executemany("DELETE FROM events WHERE number = ?", rows)

    def __len__(self) -> int:
        """How many wait; 0 means none."""
        with self._lock, self._told():
            return self._waiting()

    def close(self) -> None:
        """Close the file; what is in it stays."""
        with self._lock, self._told():
            self._db.close()

    def _waiting(self) -> int:
        # Counting would read the whole table. Events leave at the front, so their numbers have no
        # gaps, but for a moment where two processes send from one file.
        waiting: int = self._db.execute(_WAITING).fetchone()[0]
        return waiting

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise SpoolError(f"{self._path}: {error}") from error
