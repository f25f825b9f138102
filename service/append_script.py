"""The script that stores events, and the calls of it that some events take.

One call takes all events of a shard's users, in one argument: commands and arguments are what costs
the store's client time, one call a user was eight times as slow (docs/decisions/0033).
"""

import hashlib
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from lsvcr.history import COMMENT_EVENT_TYPES, VIDEO_EVENT_TYPES
from lsvcr.popularity import HOUR_MS
from service.event_log import Event, encode_event
from service.history_value import COMMENT_SIDE, VIDEO_SIDE, encode_id, encode_record
from service.popularity_counters import EXPIRY_S, counted_hours
from service.store_keys import StoreKeys

Command = tuple[str | bytes | int, ...]

EVENTS_TOGETHER = 100
"""Events of one call: while a script runs the store answers nobody else."""

_EVENT = struct.Struct("<HBH24sHI")


class AppendScript:
    """`history_append.lua` with its settings.

    Args:
        max_events: Kept a side and user, the newest.
        expiry_s: Of a user's value, after the last event.
        log_entries: Kept in a shard's stream.
        clock: Seconds since 1970, UTC.

    Attributes:
        text: For the store.
    """

    def __init__(
        self,
        keys: StoreKeys,
        *,
        max_events: int,
        expiry_s: int,
        log_entries: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.text = resources.files("service").joinpath("history_append.lua").read_bytes()
        self._sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        self._keys = keys
        self._settings = (max_events, expiry_s, log_entries, EXPIRY_S)
        self._clock = clock

    def commands(self, events: Sequence[Event]) -> list[Command]:
        """The commands that store events, each all or nothing; they answer a flag for each event.

        Raises:
            ValueError: If an event names no item.
        """
        calls: list[_Call] = []
        by_shard: dict[int, _Call] = {}
        hours = counted_hours(self._clock())
        for event in events:
            shard = self._keys.shard_of(event.user_id)
            call = by_shard.get(shard)
            if call is None or len(call.events) == EVENTS_TOGETHER:
                call = by_shard[shard] = _Call({self._keys.events(shard): 1}, [])
                calls.append(call)
            call.add(event, self._value_key(event, shard), self._counters_key(event, shard, hours))
        return [
            (
                "EVALSHA",
                self._sha,
                len(call.keys),
                *call.keys,
                *self._settings,
                b"".join(call.events),
            )
            for call in calls
        ]

    def _value_key(self, event: Event, shard: int) -> str:
        """Where an event is stored."""
        is_history = event.type in VIDEO_EVENT_TYPES or event.type in COMMENT_EVENT_TYPES
        return self._keys.value(shard, "history" if is_history else "views", event.user_id)

    def _counters_key(self, event: Event, shard: int, hours: range) -> str | None:
        """Where an event is counted, if it is on a video and in one of some hours."""
        hour = event.timestamp // HOUR_MS
        is_counted = event.type in VIDEO_EVENT_TYPES and hour in hours
        return self._keys.popularity(shard, hour) if is_counted else None


@dataclass(frozen=True, slots=True)
class _Call:
    """One run of the script, without its settings.

    Attributes:
        keys: `KEYS`, each with its number there, which begins at 1.
        events: As the script wants them.
    """

    keys: dict[str, int]
    events: list[bytes]

    def add(self, event: Event, value: str, counters: str | None) -> None:
        """Append one event, to be stored in a user's value and counted, if it is, by counters."""
        is_video = event.type in VIDEO_EVENT_TYPES
        item_id = event.video_id if is_video else event.comment_id
        if item_id is None:
            raise ValueError(f"event {event.event_id!r} of type {event.type} names no item")
        record = encode_record(
            event.event_id, item_id, timestamp_ms=event.timestamp, event_type=event.type
        )
        packed_id, entry = encode_id(item_id), encode_event(event)
        side = VIDEO_SIDE if is_video else COMMENT_SIDE
        counted_by = 0 if counters is None else self._number(counters)
        head = _EVENT.pack(
            self._number(value), side, counted_by, record, len(packed_id), len(entry)
        )
        self.events.append(head + packed_id + entry)

    def _number(self, key: str) -> int:
        return self.keys.setdefault(key, len(self.keys) + 1)
