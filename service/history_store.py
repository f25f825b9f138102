"""Users' histories in Redis or Valkey: one packed value a user, one read a request.

The keys are named in store_keys.py. Values expire some time after the user's last event. An event
that was trimmed away is forgotten: sent again it counts as accepted, is trimmed again, and stands
twice in the log and in its hour's counts.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import msgspec
from redis.exceptions import NoScriptError, ResponseError

from service.append_script import AppendScript, Command
from service.circuit_breaker import CircuitBreaker
from service.deadline import before
from service.engine.popularity_prior import CountsByHash
from service.engine.queries import EventHistory
from service.errors import HistoryStoreError
from service.event_log import Event, LogEntry, events_of, owners_of
from service.history_value import StoredEvent, decode_events, decode_history
from service.joined_reads import JoinedReads
from service.popularity_counters import ALL, add_up, decode_page
from service.store_connection import (
    FAILURES,
    KeptConnections,
    close_store,
    connect_store,
    end_if_cancelled,
    is_cluster,
)
from service.store_keys import StoreKeys, tag_of
from service.store_migration import migrate

ResultT = TypeVar("ResultT")

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
_LOG_PAGE = 1000
_PAGE_FIELDS, _PAGES_AT_ONCE = 500, 8
_MIGRATION_S = 600.0
_ARMS_SCRIPT = "sticky_arms.lua"
_decode_arms = msgspec.json.Decoder(dict[str, str]).decode


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What became of a batch of events."""

    accepted: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class StoredUser:
    """All that is stored about a user; histories oldest first."""

    videos: list[StoredEvent]
    comments: list[StoredEvent]
    views: list[StoredEvent]
    logged: list[Event]
    arms: dict[str, str]


class HistoryStore:
    """Reads fail fast and writes fail closed, both with HistoryStoreError.

    Args:
        url: redis://, rediss:// or unix://; redis+cluster:// or rediss+cluster:// for a cluster.
        read_timeout_ms: Most that a failing store costs a request.
        write_timeout_ms: For one batch of events, an export or an erasure's step.
        max_events: Kept a side and user, the newest.
        expiry_s: After the user's last event.
        log_shards, log_max_entries: How many streams the log has, and its size in all.
        on_failure: Called for each command that failed.
        clock: Seconds since 1970, UTC.
    """

    def __init__(
        self,
        url: str,
        *,
        read_timeout_ms: int,
        write_timeout_ms: int,
        max_events: int,
        expiry_s: int,
        log_shards: int = 4,
        log_max_entries: int = 1_000_000,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._read_timeout_s = read_timeout_ms / 1000
        self._write_timeout_s = write_timeout_ms / 1000
        self._keys = StoreKeys(log_shards)
        self._max_events = max_events
        self._expiry_s = expiry_s
        self._on_failure = on_failure
        self._redis = connect_store(
            url, timeout_s=self._write_timeout_s, max_connections=MAX_CONNECTIONS
        )
        self._script = AppendScript(
            self._keys,
            max_events=max_events,
            expiry_s=expiry_s,
            log_entries=max(1, log_max_entries // log_shards),
            one_slot_a_call=is_cluster(self._redis),
            clock=clock,
        )
        self._arms_script = resources.files("service").joinpath(_ARMS_SCRIPT).read_bytes()
        self._breaker = CircuitBreaker()
        # A cluster's client knows by itself which server to ask.
        self._kept = None if is_cluster(self._redis) else KeptConnections(self._redis)
        self._reads = JoinedReads(self._read_values)
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_failing(self) -> bool:
        """Whether the store failed so often that it is hardly asked any more."""
        return self._breaker.is_open

    async def fetch_history(
        self, user_id: str, deadline_s: float = math.inf
    ) -> EventHistory | None:
        """Read what a recommendation needs; None for a user without history.

        Args:
            user_id: Whose.
            deadline_s: `time.monotonic()` value after which nobody waits for it.

        Raises:
            HistoryStoreError: If the store can't be read in time.
            DeadlineExceededError: If the caller's time is up before.
        """
        value = await before(deadline_s, self._reads.read(self._keys.history(user_id)))
        if value is None:
            return None
        try:
            return decode_history(value, max_events=self._max_events)
        except HistoryStoreError as error:  # as an older release sees what a newer one wrote
            self._on_failure()
            logger.warning("a history cannot be read: %s", error)
            raise

    async def fetch_arms(self, unit: str, deadline_s: float = math.inf) -> dict[str, str]:
        """The arms that a unit keeps, by experiment; joined with the other reads that wait.

        Args and Raises as `fetch_history`.
        """
        value = await before(deadline_s, self._reads.read(self._keys.arms(unit)))
        return {} if value is None else _decode_arms(value)

    def remember_arm(self, unit: str, experiment: str, arm: str) -> None:
        """Let a unit keep an arm, unless it has one in that experiment already; returns at once.

        What fails, or is too much, is left to the unit's next request.
        """
        if len(self._tasks) >= MAX_CONNECTIONS:
            return
        call = self._redis.eval(
            self._arms_script, 1, self._keys.arms(unit), experiment, arm, self._expiry_s
        )
        task = asyncio.ensure_future(self._guard(call, self._write_timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    async def append_events(self, events: Sequence[Event]) -> AppendResult:
        """Store events and log the new ones; once this returns, every reader sees them.

        Raises:
            HistoryStoreError: If the store failed. Sending the events again is safe.
        """
        commands = self._script.commands(events)
        flags = await self._finish(self._append(commands), self._write_timeout_s)
        return AppendResult(accepted=sum(flags), duplicates=len(flags) - sum(flags))

    async def fetch_events(self, user_id: str) -> tuple[list[StoredEvent], list[StoredEvent]]:
        """Read a user's history with ids: (video events, comment events), oldest first.

        Raises:
            HistoryStoreError: If the store failed.
        """
        return await self._fetch_events(self._keys.history(user_id))

    async def fetch_popularity(self, hours: Sequence[int]) -> list[CountsByHash]:
        """Read some hours' video events by item, so far; empty for an hour long gone.

        Page by page: a hash of some hundred thousand videos, read at once, would hold up the store
        and this process for as many microseconds, and everybody's histories with them.

        Raises:
            HistoryStoreError: If the store failed.
        """
        read: dict[str, list[CountsByHash]] = {key: [] for key in self._popularity_keys(hours)}
        unread = [(key, 0) for key in read]
        while unread:
            asked, unread = unread[:_PAGES_AT_ONCE], unread[_PAGES_AT_ONCE:]
            pipeline = self._redis.pipeline(transaction=False)
            for key, cursor in asked:
                pipeline.hscan(key, cursor, count=_PAGE_FIELDS)
            pages = await self._finish(pipeline.execute(), self._write_timeout_s)
            for (key, _), (cursor, page) in zip(asked, pages, strict=True):
                read[key].append(decode_page(page))
                if cursor:
                    unread.append((key, cursor))
        by_hour = self._by_hour([*read.values()])
        return await asyncio.to_thread(lambda: [*map(add_up, by_hour)])

    async def fetch_popularity_totals(self, hours: Sequence[int]) -> list[int]:
        """Read how many video events some hours have, so far.

        Raises:
            HistoryStoreError: If the store failed.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for key in self._popularity_keys(hours):
            pipeline.hget(key, ALL)
        read = await self._finish(pipeline.execute(), self._write_timeout_s)
        return [sum(map(int, filter(None, totals))) for totals in self._by_hour(read)]

    def _popularity_keys(self, hours: Sequence[int]) -> Iterator[str]:
        """Hour by hour, each one's shards."""
        for hour in hours:
            for shard in range(self._keys.shards):
                yield self._keys.popularity(shard, hour)

    def _by_hour(self, read: Sequence[ResultT]) -> list[Sequence[ResultT]]:
        """What was read of `_popularity_keys`."""
        shards = self._keys.shards
        return [read[at : at + shards] for at in range(0, len(read), shards)]

    async def fetch_recent_users(self, limit: int) -> list[str]:
        """Read the end of the log: users of its newest events, the latest one first.

        Raises:
            HistoryStoreError: If the store failed.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for shard in range(self._keys.shards):
            pipeline.xrevrange(self._keys.events(shard), count=_LOG_PAGE)
        streams: list[list[LogEntry]]
        streams = await self._finish(pipeline.execute(), self._write_timeout_s)
        return owners_of([entry for entries in streams for entry in entries])[:limit]

    async def export_user(self, user_id: str) -> StoredUser:
        """Collect all that is stored about a user; walks through a stream of the log.

        Raises:
            HistoryStoreError: If the store failed.
        """
        videos, comments = await self._fetch_events(self._keys.history(user_id))
        _, views = await self._fetch_events(self._keys.views(user_id))
        logged = [event for _, event in await self._fetch_logged(user_id)]
        return StoredUser(videos, comments, views, logged, await self.fetch_arms(user_id))

    async def erase_user(self, user_id: str) -> None:
        """Delete a user's values at once, then their entries in the log.

        What was counted of them stays counted: the counters don't know whose events they count.

        Raises:
            HistoryStoreError: If the store failed; what is left is erased by trying again.
        """
        keys = (self._keys.history(user_id), self._keys.views(user_id), self._keys.arms(user_id))
        await self._finish(self._redis.delete(*keys), self._write_timeout_s)
        entry_ids = [entry_id for entry_id, _ in await self._fetch_logged(user_id)]
        if entry_ids:
            erase = self._redis.xdel(self._keys.events_of(user_id), *entry_ids)
            await self._finish(erase, self._write_timeout_s)

    async def migrate(self) -> None:
        """Bring the store's keys to this version's schema.

        Raises:
            StoreSchemaError: If they are of a newer one.
            HistoryStoreError: If the store failed.
        """
        await self._finish(migrate(self._redis, self._keys), _MIGRATION_S)

    async def check(self) -> None:
        """Raise HistoryStoreError if the store doesn't answer in time."""
        await self._finish(self._redis.ping(), self._read_timeout_s)

    async def close(self) -> None:
        """Wait for commands under way and close all connections."""
        await self._reads.drain()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await close_store(self._redis)

    async def _read_values(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        read = self._read_by_shard(keys) if self._kept is None else self._kept.read(keys)
        values: list[bytes | None]
        values = await self._guard(read, self._read_timeout_s)
        return values

    async def _read_by_shard(self, keys: Sequence[str]) -> list[bytes | None]:
        """One command a shard: a cluster answers for keys of one slot at a time."""
        by_tag: dict[str, list[str]] = {}
        for key in keys:
            by_tag.setdefault(tag_of(key), []).append(key)
        read = await asyncio.gather(*(self._redis.mget(some) for some in by_tag.values()))
        found = {
            key: value
            for some, values in zip(by_tag.values(), read, strict=True)
            for key, value in zip(some, values, strict=True)
        }
        return [found[key] for key in keys]

    async def _fetch_events(self, key: str) -> tuple[list[StoredEvent], list[StoredEvent]]:
        value: bytes | None
        value = await self._finish(self._redis.get(key), self._write_timeout_s)
        return decode_events(value, max_events=self._max_events) if value else ([], [])

    async def _fetch_logged(self, user_id: str) -> list[tuple[bytes, Event]]:
        found: list[tuple[bytes, Event]] = []
        start = b"-"
        while True:
            read = self._redis.xrange(self._keys.events_of(user_id), min=start, count=_LOG_PAGE)
            page: list[LogEntry] = await self._finish(read, self._write_timeout_s)
            found += events_of(user_id, page)
            if len(page) < _LOG_PAGE:
                return found
            start = b"(" + page[-1][0]

    async def _append(self, commands: Sequence[Command]) -> list[int]:
        """Run the script for each call, in one pipeline; 1 or 0 for each event."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                # Not by its name, which a cluster's client refuses: our keys are in one slot.
                pipeline.execute_command(*command)
            results = await pipeline.execute(raise_on_error=False)
        flags: list[int] = []
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, NoScriptError):  # a server that was started since, or flushed
                result = await self._redis.eval(self._script.text, *command[2:])
            if isinstance(result, Exception):
                raise result
            flags += result
        return flags

    async def _finish(self, call: Awaitable[ResultT], timeout_s: float) -> ResultT:
        """Await a command in a task of its own, so that a caller who goes away breaks nothing."""
        task = asyncio.ensure_future(self._guard(call, timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # counted and logged where it failed

    async def _guard(self, call: Awaitable[ResultT], timeout_s: float) -> ResultT:
        """Await a command for some time, through the breaker; any failure is a HistoryStoreError.

        An answer that says no (a full memory, a replica) is an answer: the breaker stays closed.
        """
        if not self._breaker.lets_through():
            _discard(call)
            raise HistoryStoreError("the history store does not answer")
        try:
            async with asyncio.timeout(timeout_s):
                result = await call
        except FAILURES as error:
            end_if_cancelled(error)
            if not isinstance(error, ResponseError):
                self._breaker.record_failure()
            self._on_failure()
            logger.warning("the history store failed: %s: %s", type(error).__name__, error)
            raise HistoryStoreError("the history store did not answer in time") from error
        self._breaker.record_success()
        return result


def _discard(call: Awaitable[Any]) -> None:
    if isinstance(call, Coroutine):
        call.close()  # else Python warns that it was never awaited
