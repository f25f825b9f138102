"""The event log: every accepted event, in a few capped streams, for the next training.

A user's events are in one stream, each entry one JSON object in the field `event`, named as in
`POST /events`. Redis drops the oldest entries beyond the cap.
"""

from collections.abc import Mapping, Sequence

import msgspec

LogEntry = tuple[bytes, Mapping[bytes, bytes]]
"""An entry's id in its stream, and its fields."""

_FIELD = b"event"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One user action on an item.

    Attributes:
        timestamp: Unix milliseconds.
    """

    event_id: str
    user_id: str
    type: str
    timestamp: int
    video_id: str | None = None
    comment_id: str | None = None
    recommendation_id: str | None = None
    watch_time_ms: int | None = None
    value: float | None = None


class _Owner(msgspec.Struct):
    user_id: str


encode_event = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_owner = msgspec.json.Decoder(_Owner).decode


def owners_of(entries: Sequence[LogEntry]) -> list[str]:
    """Name the users of entries, each once, the one of the latest entry first."""
    latest_first = sorted(entries, key=lambda entry: _written(entry[0]), reverse=True)
    owners = (_decode_owner(fields[_FIELD]).user_id for _, fields in latest_first)
    return list(dict.fromkeys(owners))


def events_of(user_id: str, entries: Sequence[LogEntry]) -> list[tuple[bytes, Event]]:
    """Pick one user's events out of a stream's entries: (entry id, event)."""
    return [
        (entry_id, _decode_event(fields[_FIELD]))
        for entry_id, fields in entries
        if _decode_owner(fields[_FIELD]).user_id == user_id
    ]


def _written(entry_id: bytes) -> tuple[int, int]:
    """An entry id as what it is made of: Unix milliseconds and a number among those."""
    time_ms, _, number = entry_id.partition(b"-")
    return int(time_ms), int(number)
