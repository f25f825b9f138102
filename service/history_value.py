"""The layout of one user's value in the history store; `history_append.lua` writes it.

    header     12 bytes: "LSV", version 2; bytes of a slot, slots of videos and of comments, and in
               which part of the expiry that was last renewed (uint16 each; 0 where it isn't known)
    slots      first the videos', then the comments', each side oldest first and its empty ones, all
               zeros, last: event hash (uint64), item hash (uint64), Unix milliseconds (48 bits),
               type (8 bits), how many 4 bytes the id takes (8 bits, 0 in an empty slot), and the
               item's id, UTF-8, filled up with zeros to the width of all slots

All little-endian. A new event that is the last of its side goes into an empty slot, and nothing
else changes, but for the expiry once in each of its parts; so a side may hold more than the service
keeps, of which the newest count. A request reads hashes and times only; the ids tell an export
which items they were, also those that no bundle knows any more.

Version 1 had no empty slots: a header of 16 bytes ("LSV", version 1; records of videos and of
comments, 2 × uint16; bytes of the video ids and of the comment ids, 2 × uint32), the records of
both sides, and then the ids, each with its length (uint16) before it. A user's next event replaces
it.

Shape suffixes: N video events, M comment events.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from lsvcr.catalogue import item_digest
from lsvcr.history import COMMENT_EVENT_TYPES, VIDEO_EVENT_TYPES
from service.engine.queries import EventHistory
from service.errors import HistoryStoreError

EVENT_TYPES = (*VIDEO_EVENT_TYPES, *COMMENT_EVENT_TYPES, "comment_view")
"""A type's number in a record is its place here: append only."""
MAX_TIMESTAMP_MS = 2**48 - 1

VIDEO_SIDE, COMMENT_SIDE = 1, 2

_MILLISECONDS = np.array(MAX_TIMESTAMP_MS)  # NumPy takes an array faster than a number
_UNIT_BYTES = 4
_HEADER = struct.Struct("<4sHHH2x")
_RECORD = struct.Struct("<8s8sQ")
_UNITS_AT = _RECORD.size - 1
_MAGIC = b"LSV\x02"
_HEADER_1 = struct.Struct("<4sHHII")
_ID_LENGTH_1 = struct.Struct("<H")
_MAGIC_1 = b"LSV\x01"
_TYPE_CODE = {name: code for code, name in enumerate(EVENT_TYPES)}


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as the store remembers it."""

    item_id: str
    type: str
    timestamp_ms: int


def encode_slot(event_id: str, item_id: str, *, timestamp_ms: int, event_type: str) -> bytes:
    """Pack one event into a slot as narrow as its id allows."""
    encoded_id = item_id.encode()
    units = -(-len(encoded_id) // _UNIT_BYTES)
    last_word = timestamp_ms | _TYPE_CODE[event_type] << 48 | units << 56
    record = _RECORD.pack(item_digest(event_id), item_digest(item_id), last_word)
    return record + encoded_id.ljust(units * _UNIT_BYTES, b"\0")


def decode_history(value: bytes, *, max_events: int) -> EventHistory:
    """View what a request needs of a value as arrays, oldest first.

    Args:
        max_events: Kept a side, the newest.

    Raises:
        HistoryStoreError: If the value has another format.
    """
    at, slot_bytes, slots, videos, comments = _find_events(value, max_events)
    slot_NM = np.frombuffer(value, _slot_dtype(slot_bytes), slots, at)
    item_NM = slot_NM["item_hash"].copy()
    time_NM = slot_NM["last_word"] & _MILLISECONDS
    return EventHistory(item_NM[videos], time_NM[videos], item_NM[comments], time_NM[comments])


def decode_events(value: bytes, *, max_events: int) -> tuple[list[StoredEvent], list[StoredEvent]]:
    """Read (video events, comment events) with their ids, oldest first.

    Args:
        max_events: Kept a side, the newest.

    Raises:
        HistoryStoreError: If the value has another format.
    """
    at, slot_bytes, _, videos, comments = _find_events(value, max_events)
    ids_1 = _read_ids_1(value) if value.startswith(_MAGIC_1) else None
    video_events, comment_events = (
        [
            _read_event(value, at + slot * slot_bytes, slot_bytes, ids_1)
            for slot in range(side.start, side.stop)
        ]
        for side in (videos, comments)
    )
    return video_events, comment_events


def _find_events(value: bytes, max_events: int) -> tuple[int, int, int, slice, slice]:
    """Where slots begin, their width and number; which of them the videos and comments are in."""
    if value.startswith(_MAGIC) and len(value) >= _HEADER.size:
        _, slot_bytes, videos, comments = _HEADER.unpack_from(value)
        at, slots = _HEADER.size, videos + comments
        units = value[at + _UNITS_AT :: slot_bytes]
        video_slots = _newest(units, 0, videos, max_events)
        return at, slot_bytes, slots, video_slots, _newest(units, videos, slots, max_events)
    if value.startswith(_MAGIC_1) and len(value) >= _HEADER_1.size:
        _, videos, comments, _, _ = _HEADER_1.unpack_from(value)
        slots = videos + comments
        return _HEADER_1.size, _RECORD.size, slots, slice(0, videos), slice(videos, slots)
    start = f"{len(value)} bytes that begin with {value[: len(_MAGIC)]!r}"
    raise HistoryStoreError(f"a history value has an unknown format: {start}")


def _newest(units: bytes, start: int, stop: int, max_events: int) -> slice:
    """The last slots of a side that aren't empty."""
    first_empty = units.find(0, start, stop)
    end = stop if first_empty < 0 else first_empty
    return slice(max(start, end - max_events), end)


@cache
def _slot_dtype(slot_bytes: int) -> np.dtype[np.void]:
    """The words of a slot that a request reads."""
    return np.dtype(
        {
            "names": ["item_hash", "last_word"],
            "formats": ["<u8", "<i8"],
            "offsets": [8, 16],
            "itemsize": slot_bytes,
        }
    )


def _read_event(
    value: bytes, at: int, slot_bytes: int, ids_1: Iterator[bytes] | None
) -> StoredEvent:
    _, _, last_word = _RECORD.unpack_from(value, at)
    padded_id = value[at + _RECORD.size : at + slot_bytes] if ids_1 is None else next(ids_1)
    event_type = EVENT_TYPES[last_word >> 48 & 0xFF]
    return StoredEvent(padded_id.rstrip(b"\0").decode(), event_type, last_word & MAX_TIMESTAMP_MS)


def _read_ids_1(value: bytes) -> Iterator[bytes]:
    """The ids of a value of version 1, in the order of its records."""
    _, videos, comments, _, _ = _HEADER_1.unpack_from(value)
    at = _HEADER_1.size + (videos + comments) * _RECORD.size
    while at < len(value):
        (length,) = _ID_LENGTH_1.unpack_from(value, at)
        at += _ID_LENGTH_1.size + length
        yield value[at - length : at]
