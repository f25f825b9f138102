"""The layout of one user's value in the history store; `history_append.lua` writes it.

    header     16 bytes: "LSV", version 1; records of videos and of comments (2 × uint16); bytes of
               the video ids and of the comment ids (2 × uint32)
    records    24 bytes each, first the videos, then the comments, each oldest first:
               event hash (uint64), item hash (uint64), Unix milliseconds (48 bits), type (8 bits),
               8 spare bits
    ids        of the items, in the order of the records: length in bytes (uint16), UTF-8

All little-endian. A request reads the records only; the ids tell an export which items they were,
also those that no bundle knows any more.

Shape suffixes: N video events, M comment events.
"""

import struct
from dataclasses import dataclass

import numpy as np

from lsvcr.catalogue import item_hash
from lsvcr.history import COMMENT_EVENT_TYPES, VIDEO_EVENT_TYPES
from service.engine.queries import EventHistory
from service.errors import HistoryStoreError

EVENT_TYPES = (*VIDEO_EVENT_TYPES, *COMMENT_EVENT_TYPES, "comment_view")
"""A type's number in a record is its place here: append only."""
MAX_TIMESTAMP_MS = 2**48 - 1

VIDEO_SIDE, COMMENT_SIDE = 1, 2

_MILLISECONDS = np.uint64(MAX_TIMESTAMP_MS)
_HEADER = struct.Struct("<4sHHII")
_RECORD = struct.Struct("<QQQ")
_ID_LENGTH = struct.Struct("<H")
_MAGIC = b"LSV\x01"
_TYPE_CODE = {name: code for code, name in enumerate(EVENT_TYPES)}


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as the store remembers it."""

    item_id: str
    type: str
    timestamp_ms: int


def encode_record(event_id: str, item_id: str, *, timestamp_ms: int, event_type: str) -> bytes:
    """Pack one event's record."""
    time_and_type = timestamp_ms | _TYPE_CODE[event_type] << 48
    return _RECORD.pack(item_hash(event_id), item_hash(item_id), time_and_type)


def encode_id(item_id: str) -> bytes:
    """Pack one id with its length before it."""
    encoded = item_id.encode()
    return _ID_LENGTH.pack(len(encoded)) + encoded


def decode_history(value: bytes) -> EventHistory:
    """View the records of a value as arrays, oldest first.

    Raises:
        HistoryStoreError: If the value has another format.
    """
    videos, comments = _read_header(value)
    words = np.frombuffer(value, "<u8", 3 * (videos + comments), _HEADER.size)
    item_NM = words[1::3].astype(np.uint64, copy=False)
    time_NM = (words[2::3] & _MILLISECONDS).view(np.int64)
    return EventHistory(item_NM[:videos], time_NM[:videos], item_NM[videos:], time_NM[videos:])


def decode_events(value: bytes) -> tuple[list[StoredEvent], list[StoredEvent]]:
    """Read (video events, comment events) with their ids, oldest first.

    Raises:
        HistoryStoreError: If the value has another format.
    """
    videos, comments = _read_header(value)
    events = []
    id_at = _HEADER.size + (videos + comments) * _RECORD.size
    for number in range(videos + comments):
        _, _, word = _RECORD.unpack_from(value, _HEADER.size + number * _RECORD.size)
        (length,) = _ID_LENGTH.unpack_from(value, id_at)
        id_at += _ID_LENGTH.size + length
        item_id = value[id_at - length : id_at].decode()
        event_type = EVENT_TYPES[word >> 48 & 0xFF]
        events.append(StoredEvent(item_id, event_type, word & MAX_TIMESTAMP_MS))
    return events[:videos], events[videos:]


def _read_header(value: bytes) -> tuple[int, int]:
    """How many records of videos and of comments."""
    if len(value) < _HEADER.size or not value.startswith(_MAGIC):
        raise HistoryStoreError("a history value has an unknown format")
    _, videos, comments, _, _ = _HEADER.unpack_from(value)
    return videos, comments
