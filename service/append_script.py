"""The script that stores events, and the calls of it that some events take.

One call takes many events, in one argument: commands and arguments are what costs the store's
client time, one call a user was eight times as slow (docs/decisions/0033).
"""

import hashlib
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from lsvcr.history import COMMENT_EVENT_TYPES, VIDEO_EVENT_TYPES
from lsvcr.popularity import HOUR_MS
from service.event_log import Event, encode_event
from service.history_value import COMMENT_SIDE, EVENT_TYPES, VIDEO_SIDE, encode_slot
from service.popularity_counters import EXPIRY_S, counted_hours
from service.store_keys import StoreKeys

Command = tuple[str | bytes | int, ...]

EVENTS_TOGETHER = 100
"""Events of one call: while a script runs the store answers nobody else."""

_EXPIRY_PARTS = 64
"""An expiry is renewed by the first event in each part of it."""
_MAX_PART = 0xFFFF

_IS_VIDEO = {name: name in VIDEO_EVENT_TYPES for name in EVENT_TYPES}
_KIND: dict[str, Literal["history", "views"]] = {
    name: "history" if name in VIDEO_EVENT_TYPES + COMMENT_EVENT_TYPES else "views"
    for name in EVENT_TYPES
}
_EVENT = struct.Struct("<HHBHHI")


class AppendScript:
    """`history_append.lua` with its settings.

    Args:
        max_events: Kept a side and user, the newest.
        expiry_s: Of a user's value, after the last event.
        log_entries: Kept in a shard's stream.
        one_slot_a_call: A call names keys of one shard only, as a cluster wants it.
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
        one_slot_a_call: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.text = resources.files("service").joinpath("history_append.lua").read_bytes()
        self._sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        self._keys = keys
        self._settings = (max_events, expiry_s, log_entries, EXPIRY_S)
        self._part_s = max(1, expiry_s // _EXPIRY_PARTS)
        self._one_slot_a_call = one_slot_a_call
        self._clock = clock

    def commands(self, events: Sequence[Event]) -> list[Command]:
        """The commands that store events, each all or nothing; they answer a flag for each event.

        Raises:
            ValueError: If an event names no item.
        """
        calls: list[_Call] = []
        open_calls: dict[int, _Call] = {}
        now_s = self._clock()
        hours = counted_hours(now_s)
        part = int(now_s) // self._part_s % _MAX_PART + 1
        for event in events:
            shard = self._keys.shard_of(event.user_id)
            slot = shard if self._one_slot_a_call else 0
            call = open_calls.get(slot)
            if call is None or len(call.events) == EVENTS_TOGETHER:
                call = open_calls[slot] = _Call({}, [])
                calls.append(call)
            self._add(call, event, shard, hours)
        return [
            (
                "EVALSHA",
                self._sha,
                len(call.keys),
                *map(str.encode, call.keys),  # the client takes eight times as long for it
                *self._settings,
                part,
                b"".join(call.events),
            )
            for call in calls
        ]

    def _add(self, call: "_Call", event: Event, shard: int, hours: range) -> None:
        """Append one event to a call: what is stored of it, logged, and counted."""
        is_video = _IS_VIDEO[event.type]
        item_id = event.video_id if is_video else event.comment_id
        if item_id is None:
            raise ValueError(f"event {event.event_id!r} of type {event.type} names no item")
        hour = event.timestamp // HOUR_MS
        counters = self._keys.popularity(shard, hour) if is_video and hour in hours else None
        slot = encode_slot(
            event.event_id, item_id, timestamp_ms=event.timestamp, event_type=event.type
        )
        entry = encode_event(event)
        head = _EVENT.pack(
            call.number(self._keys.events(shard)),
            call.number(self._keys.value(shard, _KIND[event.type], event.user_id)),
            VIDEO_SIDE if is_video else COMMENT_SIDE,
            0 if counters is None else call.number(counters),
            len(slot),
            len(entry),
        )
        call.events.append(head + slot + entry)


@dataclass(frozen=True, slots=True)
class _Call:
    """One run of the script, without its settings.

    Attributes:
        keys: `KEYS`, each with its number there, which begins at 1.
        events: As the script wants them.
    """

    keys: dict[str, int]
    events: list[bytes]

    def number(self, key: str) -> int:
        """A key's number in `keys`."""
        return self.keys.setdefault(key, len(self.keys) + 1)
