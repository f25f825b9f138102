"""Events: what is accepted, what comes out again."""

from typing import Any
from urllib.parse import quote

import jiter
import pytest
from starlette.testclient import TestClient

from lsvcr.history import COMMENT_EVENT_TYPES, VIDEO_EVENT_TYPES
from service.answer_schemas import EventsAnswer, ExportAnswer, HistoryAnswer
from service.history_value import EVENT_TYPES


def send(client: TestClient, *events: Any) -> dict[str, Any]:
    response = client.post("/events", json={"events": list(events)})
    assert response.status_code == 200, response.text
    EventsAnswer.model_validate_json(response.content)
    answer: dict[str, Any] = response.json()
    return answer


def event(user: str, event_id: str, **fields: Any) -> dict[str, Any]:
    plain = {"event_id": event_id, "user_id": user, "type": "video_watch", "video_id": "v1"}
    return {**plain, "timestamp": 1_000, **fields}


def test_every_type_is_stored_and_only_history_types_are_history(
    client: TestClient, user: str
) -> None:
    sent = [
        event(user, kind, type=kind, video_id="v1", comment_id="c1", timestamp=number)
        for number, kind in enumerate(EVENT_TYPES)
    ]
    assert send(client, *sent) == {"accepted": len(EVENT_TYPES), "duplicates": 0, "rejected": []}
    response = client.get(f"/users/{user}/history")
    HistoryAnswer.model_validate_json(response.content)
    history = response.json()
    assert [entry["type"] for entry in history["videos"]] == list(VIDEO_EVENT_TYPES)
    assert [entry["type"] for entry in history["comments"]] == list(COMMENT_EVENT_TYPES)


def test_the_parser_keeps_no_ids(client: TestClient, user: str) -> None:
    jiter.cache_clear()
    send(client, *(event(f"{user}-{number}", f"kept-{number}") for number in range(50)))
    assert 1 <= jiter.cache_usage() <= len(event(user, "")) + len(["events"])


def test_a_bad_event_spoils_no_other(client: TestClient, user: str) -> None:
    good = event(user, "good")
    bad = [
        event(user, "no video", video_id=None),
        event(user, "no comment", type="comment_like"),
        event(user, "type", type="video_dislike"),
        event(user, "time", timestamp=1.5),
        event(user, "negative", timestamp=-1),
        event(user, "flag", timestamp=True),
        event(user, "field", videoid="v1"),
        event(user, "", video_id="v1"),
        event("a\nb", "user"),
        event(user, "watch", watch_time_ms=-1),
        event(user, "value", value="1"),
        "not an object",
        None,
        {},
    ]
    answer = send(client, *bad[:7], good, *bad[7:])
    assert (answer["accepted"], answer["duplicates"]) == (1, 0)
    assert [entry["index"] for entry in answer["rejected"]] == [*range(7), *range(8, 15)]
    assert "video_id" in answer["rejected"][0]["detail"]
    assert "videoid" in answer["rejected"][6]["detail"]


def test_nothing_but_bad_events_is_an_answer_too(client: TestClient) -> None:
    assert send(client, {}) == {
        "accepted": 0,
        "duplicates": 0,
        "rejected": [{"index": 0, "detail": "event_id: Field required"}],
    }


def test_the_same_event_again_changes_nothing(client: TestClient, user: str) -> None:
    first = event(user, "e1")
    assert send(client, first, first)["duplicates"] == 1
    before = client.get(f"/users/{user}/export").json()
    assert send(client, first) == {"accepted": 0, "duplicates": 1, "rejected": []}
    assert client.get(f"/users/{user}/export").json() == before


def test_events_may_come_late_and_for_unknown_items(client: TestClient, user: str) -> None:
    send(client, event(user, "late", video_id="v9", timestamp=9))
    send(client, event(user, "early", video_id="from tomorrow's bundle", timestamp=1))
    videos = client.get(f"/users/{user}/history").json()["videos"]
    assert videos == [
        {"video_id": "from tomorrow's bundle", "type": "video_watch", "timestamp": 1},
        {"video_id": "v9", "type": "video_watch", "timestamp": 9},
    ]
    answer = client.post("/recommend/videos", json={"user_id": user}).json()
    assert (answer["history_used"]["videos"], answer["ignored"]) == (1, 1)


@pytest.mark.parametrize("user_id", ["plain", "with/slash", "{brace}", "ü", "a?b#c", "a b"])
def test_export_tells_all_and_erasure_leaves_nothing(client: TestClient, user_id: str) -> None:
    user, path = user_id, f"/users/{quote(user_id, safe='')}"
    full = event(user, "full", recommendation_id="01K", watch_time_ms=5, value=0.5)
    view = event(user, "view", type="comment_view", comment_id="c1", video_id=None)
    send(client, full, view)
    response = client.get(f"{path}/export")
    ExportAnswer.model_validate_json(response.content)
    export = response.json()
    assert export["user_id"] == user
    assert [entry["video_id"] for entry in export["history"]["videos"]] == ["v1"]
    assert [entry["comment_id"] for entry in export["views"]] == ["c1"]
    assert export["event_log"] == [full, {k: v for k, v in view.items() if v is not None}]
    assert client.delete(path).status_code == 204
    empty = client.get(f"{path}/export").json()
    assert empty["history"] == {"user_id": user, "videos": [], "comments": []}
    assert (empty["views"], empty["event_log"]) == ([], [])
    assert client.delete(path).status_code == 204, "erasing nobody is no error"


def test_an_unknown_user_has_an_empty_history(client: TestClient, user: str) -> None:
    history = client.get(f"/users/{user}/history").json()
    assert history == {"user_id": user, "videos": [], "comments": []}
