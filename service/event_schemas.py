"""What `POST /events` may contain: checked at once where nothing is wrong, else one by one."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import Field, Strict, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from service.event_log import Event
from service.history_value import MAX_TIMESTAMP_MS
from service.schemas import AtMost, Body, Identifier, Refused, Timestamp, keep_refused

EventType = Literal[
    "video_watch",
    "video_like",
    "video_share",
    "comment_view",
    "comment_like",
    "comment_reply",
    "comment_write",
]


class EventBody(Body):
    """One user action on an item."""

    event_id: Identifier = Field(description="Sending the same one again changes nothing.")
    user_id: Identifier
    type: EventType
    timestamp: Timestamp
    video_id: Identifier | None = Field(default=None, description="Needed by video_ events.")
    comment_id: Identifier | None = Field(default=None, description="Needed by comment_ events.")
    recommendation_id: Identifier | None = None
    watch_time_ms: Annotated[int, Strict(), Field(ge=0, le=MAX_TIMESTAMP_MS)] | None = None
    value: Annotated[float, Strict()] | None = None

    @model_validator(mode="after")
    def _need_the_item(self) -> Self:
        name = "video_id" if self.type.startswith("video_") else "comment_id"
        if getattr(self, name) is None:
            raise PydanticCustomError("missing", f"{self.type} needs a {name}")
        return self


_PlainId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_FiniteNumber = Annotated[
    float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)
]  # JSON's 1e999 is read as infinity
_PlainNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIMESTAMP_MS)]


class _PlainEvent(Event, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `EventBody` takes, as far as types and limits tell."""

    event_id: _PlainId
    user_id: _PlainId
    type: EventType
    timestamp: _PlainNumber
    video_id: _PlainId | None = None
    comment_id: _PlainId | None = None
    recommendation_id: _PlainId | None = None
    watch_time_ms: _PlainNumber | None = None
    value: _FiniteNumber | None = None


def _take_all_at_once(value: Any, validate: ValidatorFunctionWrapHandler) -> list[Event | Refused]:
    """Check events together, which is all that a proper list needs, at a third of the time.

    What this doesn't take is checked one by one: it says what is wrong (docs/decisions/0047).
    """
    try:
        events = msgspec.convert(value, list[_PlainEvent])
    except msgspec.ValidationError:
        events = []
    if events and all(map(_names_its_item, events)) and _is_printable(events):
        return [*events]
    return [
        entry if isinstance(entry, Refused) else Event(**vars(entry)) for entry in validate(value)
    ]


def _names_its_item(event: Event) -> bool:
    return (event.video_id if event.type.startswith("v") else event.comment_id) is not None


def _is_printable(events: Sequence[Event]) -> bool:
    """Whether no id can have a control character."""
    return "".join(
        f"{event.event_id}{event.user_id}{event.video_id}{event.comment_id}{event.recommendation_id}"
        for event in events
    ).isprintable()


class EventsBody(Body):
    """`POST /events`; at runtime an entry is an `Event`, or a `Refused` if it is wrong."""

    events: Annotated[
        list[Annotated[EventBody, WrapValidator(keep_refused)]],
        WrapValidator(_take_all_at_once),
        Field(min_length=1),
        AtMost("max_events"),
    ]
