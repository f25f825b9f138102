"""What is refused, and how: each rule of the interface."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_client import make_settings, serve
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.answer_schemas import ProblemAnswer

VIDEOS, COMMENTS, FEED = "/recommend/videos", "/recommend/comments", "/recommend/feed"
BATCH, EVENTS = "/recommend/batch", "/events"
EVENT = {"event_id": "e", "user_id": "u", "type": "video_watch", "video_id": "v1", "timestamp": 1}
BETRAYALS = re.compile(r"(?i:pydantic|fastapi|starlette|redis|traceback|\.py)|[a-z]Body")


def check_problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert not BETRAYALS.search(response.text), response.text
    problem: dict[str, Any] = response.json()
    ProblemAnswer.model_validate(problem)
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert ("errors" in problem) == (status == 422)
    return problem


@pytest.fixture(scope="module")
def small(tiny_master: Path, store_url: str) -> Iterator[TestClient]:
    """An application with small limits."""
    limits = {
        "max_k": 5,
        "max_batch_requests": 2,
        "max_events": 2,
        "max_inline_events": 2,
        "max_excluded": 2,
        "max_candidates": 2,
        "max_body_bytes": 2000,
    }
    with serve(make_settings(tiny_master, store_url, **limits)) as client:
        yield client


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"user_id": "\xff"}',
        b'{"user_id": "u", "k": NaN}',
        b'{"user_id": "u", "diversity": {"lambda": Infinity}}',
        b'{"user_id": "\\ud800"}',
        b'{"user_id": "u"} {}',
        b"[" * 5000,
        b'{"user_id": "a", "user_id": "b"}',
        b'{"events": [{"event_id": "a", "event_id": "b"}]}',
        b'{"' + b"x" * 10_000 + b'": 1, "' + b"x" * 10_000 + b'": 1}',
        b'{"user_id": ' + b"9" * 100_000 + b"}",
        "{}".encode("utf-16"),
        b"\xef\xbb\xbf{}",
    ],
)
@pytest.mark.parametrize("path", [VIDEOS, BATCH, EVENTS])
def test_what_is_not_json_is_refused(client: TestClient, path: str, raw: bytes) -> None:
    problem = check_problem(client.post(path, content=raw), 422)
    assert problem["errors"][0]["loc"] == ["body"]
    assert len(json.dumps(problem)) < 1500


@pytest.mark.parametrize(
    ("path", "body", "loc"),
    [
        (VIDEOS, {}, []),
        (VIDEOS, [], []),
        (VIDEOS, {"unit_id": "x"}, []),
        (VIDEOS, {"user_id": "u", "kk": 3}, ["kk"]),
        (VIDEOS, {"user_id": "u", "k": 0}, ["k"]),
        (VIDEOS, {"user_id": "u", "k": 501}, ["k"]),
        (VIDEOS, {"user_id": "u", "k": "5"}, ["k"]),
        (VIDEOS, {"user_id": "u", "k": 5.0}, ["k"]),
        (VIDEOS, {"user_id": "u", "k": True}, ["k"]),
        (VIDEOS, {"user_id": "u", "k": None}, ["k"]),
        (VIDEOS, {"user_id": "u", "k": 10**30}, ["k"]),
        (VIDEOS, {"user_id": 7}, ["user_id"]),
        (VIDEOS, {"user_id": ""}, ["user_id"]),
        (VIDEOS, {"user_id": "x" * 129}, ["user_id"]),
        (VIDEOS, {"user_id": "a\nb"}, ["user_id"]),
        (VIDEOS, {"user_id": "u\n"}, ["user_id"]),
        (VIDEOS, {"user_id": "\x7f"}, ["user_id"]),
        (VIDEOS, {"user_id": "\x00"}, ["user_id"]),
        (VIDEOS, {"user_id": "u", "explain": 1}, ["explain"]),
        (VIDEOS, {"user_id": "u", "diversity": {"lambda": 1.1}}, ["diversity", "lambda"]),
        (VIDEOS, {"user_id": "u", "diversity": {"max_per_author": 0}}, None),
        (VIDEOS, {"user_id": "u", "exclude": {"comment_ids": []}}, ["exclude", "comment_ids"]),
        (VIDEOS, {"user_id": "u", "filter": {"category": "x"}}, ["filter", "category"]),
        (VIDEOS, {"user_id": "u", "filter": {"published_after": "2020"}}, None),
        (VIDEOS, {"history": {"videos": [{"video_id": "v"}]}}, None),
        (VIDEOS, {"history": {"videos": [{"video_id": "v", "timestamp": -1}]}}, None),
        (VIDEOS, {"history": {"videos": [{"video_id": "v", "timestamp": 2**48}]}}, None),
        (VIDEOS, {"history": {"songs": []}}, ["history", "songs"]),
        (VIDEOS, {"user_id": "u", "video_id": "v1"}, ["video_id"]),
        (COMMENTS, {"user_id": "u", "diversity": {}}, ["diversity"]),
        (COMMENTS, {"user_id": "u", "candidates": ["c1"]}, []),
        (COMMENTS, {"user_id": "u", "exclude": {"video_ids": []}}, ["exclude", "video_ids"]),
        (FEED, {"user_id": "u", "comments_per_video": -1}, ["comments_per_video"]),
        (BATCH, {"requests": []}, ["requests"]),
        (BATCH, {"requests": {}}, ["requests"]),
        (EVENTS, {"events": []}, ["events"]),
        (EVENTS, {"events": [EVENT], "more": 1}, ["more"]),
        (EVENTS, [EVENT], []),
    ],
)
def test_what_is_wrong_is_named(
    client: TestClient, path: str, body: Any, loc: list[str] | None
) -> None:
    problem = check_problem(client.post(path, content=json.dumps(body).encode()), 422)
    if loc is not None:
        assert problem["errors"][0]["loc"] == ["body", *loc]


@pytest.mark.parametrize("user_id", ["a b", "ü", "{x}", "x" * 128, "\u2028", "😀" * 128, "../.."])
def test_any_other_identifier_is_welcome(client: TestClient, user_id: str) -> None:
    assert client.post(VIDEOS, json={"user_id": user_id}).json()["user_id"] == user_id


def history(videos: int) -> dict[str, Any]:
    return {"videos": [{"video_id": f"v{n}", "timestamp": n} for n in range(videos)]}


@pytest.mark.parametrize(
    ("path", "allowed", "refused"),
    [
        (VIDEOS, {"user_id": "u", "k": 5}, {"user_id": "u", "k": 6}),
        (VIDEOS, {"history": history(2), "k": 1}, {"history": history(3), "k": 1}),
        (
            VIDEOS,
            {"user_id": "u", "k": 1, "exclude": {"video_ids": ["a", "b"]}},
            {"user_id": "u", "k": 1, "exclude": {"video_ids": ["a", "b", "c"]}},
        ),
        (
            COMMENTS,
            {"user_id": "u", "k": 1, "video_id": "v1", "candidates": ["a", "b"]},
            {"user_id": "u", "k": 1, "video_id": "v1", "candidates": ["a", "b", "c"]},
        ),
        (
            BATCH,
            {"requests": [{"kind": "feed", "user_id": "u", "k": 1}] * 2},
            {"requests": [{"kind": "feed", "user_id": "u", "k": 1}] * 3},
        ),
        (EVENTS, {"events": [EVENT] * 2}, {"events": [EVENT] * 3}),
    ],
)
def test_limits_are_settings(small: TestClient, path: str, allowed: Any, refused: Any) -> None:
    assert small.post(path, json=allowed).status_code == 200
    check_problem(small.post(path, json=refused), 422)


def test_the_limit_of_k_holds_for_similar_videos_too(small: TestClient) -> None:
    assert small.get("/videos/v1/similar?k=5").status_code == 200
    for k in ("6", "0", "x", "1.5", "3.0", "1_0", "+1", "%201"):
        problem = check_problem(small.get(f"/videos/v1/similar?k={k}"), 422)
        assert problem["errors"][0]["loc"] == ["query", "k"]


def test_a_body_too_large_is_refused_however_it_comes(small: TestClient) -> None:
    body = json.dumps({"user_id": "u", "k": 1}).encode()
    padded = body + b" " * (2000 - len(body))
    assert small.post(VIDEOS, content=padded).status_code == 200
    check_problem(small.post(VIDEOS, content=padded + b" "), 413)

    def in_chunks(raw: bytes) -> Iterator[bytes]:
        yield from (raw[start : start + 100] for start in range(0, len(raw), 100))

    assert small.post(VIDEOS, content=in_chunks(padded)).status_code == 200
    check_problem(small.post(VIDEOS, content=in_chunks(padded + b" ")), 413)


def test_many_mistakes_make_a_short_answer(client: TestClient) -> None:
    body = {"user_id": "u", "exclude": {"video_ids": [7] * 2000}, "x" * 5000: 1}
    problem = check_problem(client.post(VIDEOS, json=body), 422)
    assert len(problem["errors"]) == 50
    assert len(json.dumps(problem)) < 10_000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("POST", "/", 405),
        ("GET", VIDEOS, 405),
        ("PUT", EVENTS, 405),
        ("POST", "/health/live", 405),
        ("GET", "/redoc", 404),
        ("GET", f"/users/{'x' * 129}/history", 422),
        ("GET", "/users/a%0Ab/history", 404),
        ("GET", "/videos/%00/similar", 422),
        ("GET", "/videos/v1/similar?kk=5", 422),
        ("GET", "/admin/models?all=yes", 422),
        ("POST", "/admin/models/refresh?now=1", 422),
    ],
)
def test_paths_and_methods(client: TestClient, method: str, path: str, status: int) -> None:
    check_problem(client.request(method, path), status)


@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "with space", "~!@#$%^&*()"])
def test_a_request_id_is_taken(client: TestClient, given: str) -> None:
    for path in ("/health/live", "/nope"):
        assert client.get(path, headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", [b"x" * 129, b"", b"\xc3\xbc", b"tab\there", None])
def test_or_else_made(client: TestClient, given: bytes | None) -> None:
    headers = {} if given is None else {b"X-Request-Id": given}
    made = [client.get("/health/live", headers=headers).headers["X-Request-Id"] for _ in range(2)]
    assert made[0] != made[1]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


@pytest.mark.parametrize("given", ["-1", "x", "1.5", "", "1e3", "9" * 19, "٣"])
def test_a_wrong_deadline_is_refused(client: TestClient, given: str) -> None:
    headers = {"X-Deadline-Ms": given.encode()}
    response = client.post(VIDEOS, json={"user_id": "u"}, headers=headers)
    assert check_problem(response, 422)["errors"][0]["loc"] == ["header", "X-Deadline-Ms"]


def test_a_request_whose_time_is_up_is_told_so(client: TestClient) -> None:
    for path, body in (
        (VIDEOS, {"user_id": "u"}),
        (VIDEOS, {"history": {}}),
        (COMMENTS, {"history": {}}),
        (FEED, {"history": {}}),
        (EVENTS, {"events": [EVENT]}),
    ):
        check_problem(client.post(path, json=body, headers={"X-Deadline-Ms": "0"}), 504)
    for path in ("/videos/v1/similar", "/users/u/history", "/videos?id=v1"):
        check_problem(client.get(path, headers={"X-Deadline-Ms": "0"}), 504)


def test_a_body_that_comes_too_slowly_is_told_so(client: TestClient) -> None:
    def slowly() -> Iterator[bytes]:
        yield b'{"user_id":'
        time.sleep(0.2)
        yield b'"u"}'

    check_problem(client.post(VIDEOS, content=slowly(), headers={"X-Deadline-Ms": "100"}), 504)


def test_a_path_that_is_no_text_is_refused(client: TestClient) -> None:
    meant = "/users/%EF%BF%BD/history"  # U+FFFD, which bytes that are no text would become
    for path in ("/users/%ff/history", "/users/a%C3/history", "/nowhere/%80"):
        refused = client.get(path)
        assert refused.status_code == 422
        assert refused.json()["detail"] == "path: should be UTF-8"
    assert client.get(meant).json()["user_id"] == "\ufffd"


def test_too_many_waiting_are_refused_at_once(tiny_master: Path, store_url: str) -> None:
    app_settings = make_settings(tiny_master, store_url, max_queue=3, max_batch=1)
    body = {"requests": [{"kind": "videos", "history": history(1)}] * 50}
    with serve(app_settings) as client:
        results = client.post(BATCH, json=body).json()["results"]
        refused = [result for result in results if result.get("status") == 503]
        assert {result["type"] for result in refused} == {"urn:lsvcr:problem:overloaded"}
        assert 3 <= 50 - len(refused) < 50
        assert client.post(VIDEOS, json={"history": {}}).status_code == 200


NAMES = [
    *("user_id", "k", "history", "videos", "comments", "video_id", "comment_id", "timestamp"),
    *("exclude", "seen", "video_ids", "filter", "categories", "any_of", "diversity", "lambda"),
    *("max_per_author", "explain", "candidates", "comments_per_video", "requests", "kind"),
    *("events", "event_id", "type", "value", "watch_time_ms"),
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 600)
    | st.floats(0, 1)
    | st.sampled_from(
        ["u", "v1", "c1", "videos", "comments", "feed", "video_watch", "a0", "", "\n"]
    )
)
BODIES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=25,
)


@settings(max_examples=150)
@given(path=st.sampled_from([VIDEOS, COMMENTS, FEED, BATCH, EVENTS]), body=BODIES)
def test_no_body_makes_us_fail(client: TestClient, path: str, body: Any) -> None:
    if isinstance(body, dict) and path != EVENTS and path != BATCH:
        body.setdefault("user_id", "u")
    response = client.post(path, json=body)
    assert response.status_code in (200, 404, 422), response.text
    if response.status_code != 200:
        check_problem(response, response.status_code)


def test_a_deadline_can_be_shortened_only(tiny_master: Path, store_url: str) -> None:
    app_settings = make_settings(tiny_master, store_url, deadline_ms=1, max_k=500)
    body = {"history": {}, "k": 500, "comments_per_video": 100}
    with serve(app_settings) as client:
        answers = (
            client.post(FEED, json=body, headers={"X-Deadline-Ms": "60000"}) for _ in range(2000)
        )
        assert any(answer.status_code == 504 for answer in answers), "a millisecond is little"
