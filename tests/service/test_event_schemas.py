"""Events checked together, against the same ones checked one by one."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.event_log import Event
from service.event_schemas import EventsBody
from service.history_value import EVENT_TYPES
from service.routes.json_route import parse_body
from service.schemas import Limits, Refused

LIMITS = Limits(
    max_k=1,
    max_batch_requests=1,
    max_events=10,
    max_inline_events=1,
    max_excluded=1,
    max_candidates=1,
)
WHOLE = {"event_id": "e", "user_id": "u", "type": "video_watch", "timestamp": 1, "video_id": "v"}
NUMBERS = st.one_of(
    st.sampled_from((0, -1, 2**48 - 1, 2**48, 10**400, 1.0, 0.5, 1e308, True, None)),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.one_of(
    st.sampled_from(
        ("", "v", "x" * 128, "x" * 129, "a\x00b", "\x7f", "\x85", "\xa0", "\u200b", "ä")
    ),
    st.text(max_size=5),
)
WRONG = st.one_of(NUMBERS, TEXTS, st.just([]), st.just({}))
VALUES = {
    "type": st.one_of(st.sampled_from(EVENT_TYPES), WRONG),
    "timestamp": st.one_of(NUMBERS, WRONG),
    "watch_time_ms": st.one_of(NUMBERS, WRONG),
    "value": st.one_of(NUMBERS, WRONG),
    "more": WRONG,
}
CHANGES = st.dictionaries(
    st.sampled_from((*WHOLE, "comment_id", "recommendation_id", "watch_time_ms", "value", "more")),
    st.none(),
    max_size=3,
).flatmap(
    lambda names: st.fixed_dictionaries(
        {name: VALUES.get(name, st.one_of(TEXTS, WRONG)) for name in names}
    )
)


INFINITY = msgspec.Raw(b"1e999")
"""As JSON may have it, which knows no infinity."""


def check(events: list[Any]) -> list[Any]:
    body = parse_body(msgspec.json.encode({"events": events}), EventsBody, LIMITS)
    return [
        entry if isinstance(entry, Refused) else msgspec.structs.asdict(entry)
        for entry in body.events
    ]


@given(changes=CHANGES, missing=st.sets(st.sampled_from(tuple(WHOLE)), max_size=1))
@example(changes={}, missing=set())
@example(changes={"type": "comment_like", "comment_id": "c"}, missing={"video_id"})
@example(changes={"value": 1.7976931348623157e308}, missing=set())
@example(changes={"value": INFINITY}, missing=set())
def test_an_event_alone_is_taken_as_beside_one_that_is_wrong(
    changes: dict[str, Any], missing: set[str]
) -> None:
    """Beside one that is wrong, events are checked one by one."""
    event = {name: value for name, value in {**WHOLE, **changes}.items() if name not in missing}
    taken, refused = check([event, {}])
    assert isinstance(refused, Refused)
    assert check([event]) == [taken]


def test_a_proper_list_is_taken_in_its_order() -> None:
    events = [{**WHOLE, "event_id": f"e{number}"} for number in range(10)]
    assert check(events) == [msgspec.structs.asdict(Event(**event)) for event in events]


@pytest.mark.parametrize("count", [0, 11])
def test_a_list_has_some_events_and_no_more_than_the_limit(count: int) -> None:
    with pytest.raises(Exception, match=r"events"):
        check([WHOLE] * count)
