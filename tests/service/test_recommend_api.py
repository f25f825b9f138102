"""Recommending, rule by rule, on a real bundle and a real store."""

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.answer_schemas import BatchAnswer, CommentsAnswer, FeedAnswer, VideosAnswer

VIDEOS, COMMENTS, FEED = "/recommend/videos", "/recommend/comments", "/recommend/feed"
INLINE = {
    "videos": [{"video_id": "v3", "timestamp": 1_000}, {"video_id": "v5", "timestamp": 2_000}],
    "comments": [{"comment_id": "c7", "timestamp": 1_500}],
}


def ask(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    model = {VIDEOS: VideosAnswer, COMMENTS: CommentsAnswer, FEED: FeedAnswer}[path]
    model.model_validate_json(response.content)  # exactly what the OpenAPI document says
    answer: dict[str, Any] = response.json()
    return answer


def watch(client: TestClient, user: str, *video_ids: str) -> None:
    events = [
        {
            "event_id": f"{user}-{video_id}",
            "user_id": user,
            "type": "video_watch",
            "video_id": video_id,
            "timestamp": 1_000 + number,
        }
        for number, video_id in enumerate(video_ids)
    ]
    assert client.post("/events", json={"events": events}).json()["accepted"] == len(video_ids)


def ids(answer: dict[str, Any], name: str = "video_id") -> list[str]:
    return [item[name] for item in answer["items"]]


@pytest.mark.parametrize("path", [VIDEOS, COMMENTS, FEED])
def test_an_unknown_user_gets_the_popular_list(client: TestClient, user: str, path: str) -> None:
    answer = ask(client, path, user_id=user)
    assert answer["source"] == "popular"
    assert answer["user_id"] == user
    assert len(answer["items"]) == 20
    assert [item["rank"] for item in answer["items"]] == list(range(1, 21))
    assert answer["history_used"] == {"videos": 0, "comments": 0}
    assert answer["degraded"] == []


def test_a_user_with_a_history_gets_the_models_videos(client: TestClient, user: str) -> None:
    watch(client, user, "v3", "v5")
    answer = ask(client, VIDEOS, user_id=user, k=7)
    assert answer["source"] == "model"
    assert answer["history_used"] == {"videos": 2, "comments": 0}
    assert len(answer["items"]) == 7
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert not {"v3", "v5"} & set(ids(answer)), "seen videos are left out by default"


def test_an_event_is_seen_by_the_next_recommendation(client: TestClient, user: str) -> None:
    first = ids(ask(client, VIDEOS, user_id=user))[0]
    watch(client, user, first)
    answer = ask(client, VIDEOS, user_id=user)
    assert answer["history_used"]["videos"] == 1
    assert first not in ids(answer)


def test_inline_and_stored_history_answer_alike(client: TestClient, user: str) -> None:
    watch(client, user, "v3", "v5")
    inline = {
        "videos": [{"video_id": v, "timestamp": 1000 + n} for n, v in enumerate(["v3", "v5"])]
    }
    stored = ask(client, VIDEOS, user_id=user, k=50)
    assert ask(client, VIDEOS, history=inline, k=50)["items"] == stored["items"]
    assert ask(client, VIDEOS, history=inline, k=50)["user_id"] is None


def test_an_inline_history_is_used_instead_of_the_stored_one(client: TestClient, user: str) -> None:
    watch(client, user, "v9")
    answer = ask(client, VIDEOS, user_id=user, history=INLINE)
    assert answer["history_used"] == {"videos": 2, "comments": 1}


def test_the_same_question_has_the_same_answer(client: TestClient) -> None:
    first, second = (ask(client, VIDEOS, history=INLINE, k=50) for _ in range(2))
    assert first["items"] == second["items"]
    assert first["recommendation_id"] < second["recommendation_id"] or (
        first["recommendation_id"][:10] == second["recommendation_id"][:10]
    )


def test_what_surrounds_the_items(client: TestClient) -> None:
    response = client.post(VIDEOS, json={"history": INLINE})
    answer = response.json()
    assert re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", answer["recommendation_id"])
    assert answer["model"]["arm"] is None
    assert answer["model"]["experiment"] is None
    assert response.headers["X-Model-Version"] == answer["model"]["version"]
    assert "X-Arm" not in response.headers
    assert {"history", "queue", "encode", "retrieve", "total"} <= set(answer["timings_ms"])
    assert all(took_ms >= 0 for took_ms in answer["timings_ms"].values())


def test_unknown_history_items_are_skipped_and_counted(client: TestClient) -> None:
    history = {
        "videos": [{"video_id": "v3", "timestamp": 1}, {"video_id": "nope", "timestamp": 2}],
        "comments": [{"comment_id": "nope", "timestamp": 3}],
    }
    answer = ask(client, VIDEOS, history=history)
    assert answer["ignored"] == 2
    assert answer["history_used"] == {"videos": 1, "comments": 0}


def test_an_empty_inline_history_gets_the_popular_list(client: TestClient) -> None:
    assert ask(client, VIDEOS, history={})["source"] == "popular"


def test_excluded_and_seen_videos(client: TestClient) -> None:
    everything = ask(client, VIDEOS, history=INLINE, k=500, exclude={"seen": False})
    assert len(everything["items"]) == 50
    best = ids(everything)[0]
    answer = ask(client, VIDEOS, history=INLINE, k=500, exclude={"video_ids": [best, "nope"]})
    assert not {best, "v3", "v5"} & set(ids(answer))


def test_filters_are_exact(client: TestClient) -> None:
    def found(**condition: Any) -> set[int]:
        answer = ask(client, VIDEOS, history={}, k=500, filter=condition)
        return {int(video_id[1:]) for video_id in ids(answer)}

    # The tiny bundle: category k(n % 4) except every tenth, author a(n % 7) except every ninth,
    # published at day n except every eighth.
    category = {n: n % 4 if n % 10 else None for n in range(1, 51)}
    author = {n: n % 7 if n % 9 else None for n in range(1, 51)}
    day = {n: n if n % 8 else None for n in range(1, 51)}
    assert found(categories={"any_of": ["k1", "k2"]}) == {n for n in day if category[n] in (1, 2)}
    assert found(categories={"none_of": ["k1"]}) == {n for n in day if category[n] != 1}
    assert found(authors={"any_of": ["a3"], "none_of": ["a4"]}) == {
        n for n in day if author[n] == 3
    }
    window = {"published_after": 10 * 86_400_000, "published_before": 20 * 86_400_000}
    assert found(**window) == {n for n in day if (day[n] or 0) in range(10, 20)}
    assert found(categories={"any_of": ["no such category"]}) == set()


def test_diversity_caps_authors(client: TestClient) -> None:
    wish = {"lambda": 0.5, "max_per_category": 2}
    answer = ask(client, VIDEOS, history=INLINE, k=8, diversity=wish)
    numbers = [int(video_id[1:]) for video_id in ids(answer)]
    categories = [number % 4 for number in numbers if number % 10]
    assert all(categories.count(category) <= 2 for category in categories)


def test_an_explanation_sums_up_to_the_score(client: TestClient) -> None:
    answer = ask(client, VIDEOS, history=INLINE, k=5, explain=True)
    for item in answer["items"]:
        assert sum(item["parts"].values()) == pytest.approx(item["score"], abs=1e-5)
        assert len(item["because"]) <= 3
    plain = ask(client, VIDEOS, history=INLINE, k=5)
    assert all("parts" not in item and "because" not in item for item in plain["items"])


def test_comments_under_a_video(client: TestClient) -> None:
    answer = ask(client, COMMENTS, history=INLINE, video_id="v3", k=500)
    assert answer["items"]
    assert {item["video_id"] for item in answer["items"]} == {"v3"}
    assert all(item["text"] == f"text of {item['comment_id']}" for item in answer["items"])


def test_comments_of_an_unknown_video_are_not_found(client: TestClient) -> None:
    response = client.post(COMMENTS, json={"history": INLINE, "video_id": "nope"})
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_a_video_without_comments_answers_nothing(client: TestClient) -> None:
    assert ask(client, COMMENTS, history=INLINE, video_id="v50")["items"] == []


def test_candidates_are_ranked_alone_and_strangers_counted(client: TestClient) -> None:
    everything = ids(ask(client, COMMENTS, history=INLINE, video_id="v3", k=500), "comment_id")
    stranger = ids(ask(client, COMMENTS, history=INLINE, video_id="v4", k=1), "comment_id")[0]
    candidates = [everything[-1], everything[0], stranger, "nope"]
    answer = ask(client, COMMENTS, history=INLINE, video_id="v3", candidates=candidates)
    assert ids(answer, "comment_id") == [everything[0], everything[-1]]
    assert answer["ignored"] == 2


def test_excluded_comments(client: TestClient) -> None:
    history = {"comments": [{"comment_id": "c7", "timestamp": 1}]}
    everything = ids(ask(client, COMMENTS, history=history, k=500), "comment_id")
    assert "c7" in everything, "people read threads again, so seen comments stay by default"
    exclude = {"comment_ids": [everything[0]], "seen": True}
    answer = ask(client, COMMENTS, history=history, k=500, exclude=exclude)
    assert not {"c7", everything[0]} & set(ids(answer, "comment_id"))


def test_comments_of_all_videos(client: TestClient) -> None:
    answer = ask(client, COMMENTS, history=INLINE, k=30)
    assert len(answer["items"]) == 30
    assert len({item["video_id"] for item in answer["items"]}) > 1


def test_a_feed_is_the_videos_with_their_comments(client: TestClient) -> None:
    feed = ask(client, FEED, history=INLINE, k=6, comments_per_video=2)
    assert ids(feed) == ids(ask(client, VIDEOS, history=INLINE, k=6))
    for item in feed["items"]:
        assert len(item["comments"]) <= 2
        under = ask(client, COMMENTS, history=INLINE, video_id=item["video_id"], k=2)
        assert [c["comment_id"] for c in item["comments"]] == ids(under, "comment_id")


def test_a_feed_has_three_comments_a_video_unless_told(client: TestClient) -> None:
    feed = ask(client, FEED, history=INLINE)
    assert max(len(item["comments"]) for item in feed["items"]) == 3


def test_similar_videos(client: TestClient) -> None:
    response = client.get("/videos/v3/similar", params={"k": 4})
    assert response.status_code == 200
    answer = VideosAnswer.model_validate_json(response.content)
    assert len(answer.items) == 4
    assert "v3" not in {item.video_id for item in answer.items}
    assert response.headers["X-Model-Version"] == answer.model.version
    assert len(client.get("/videos/v3/similar").json()["items"]) == 20
    assert client.get("/videos/nope/similar").status_code == 404
    assert client.get("/videos/a%2Fb/similar").json()["detail"] == "video 'a/b' is unknown"


def test_a_batch_answers_in_order_and_a_failure_stays_alone(client: TestClient, user: str) -> None:
    watch(client, user, "v3")
    requests = [
        {"kind": "feed", "user_id": user, "k": 2},
        {"kind": "comments", "user_id": user, "video_id": "nope"},
        {"kind": "videos", "user_id": user, "k": 3},
        {"kind": "videos", "user_id": user, "k": "3"},
        {"kind": "videos"},
        {"kind": "songs", "user_id": user},
        "videos",
        {"kind": "comments", "user_id": user, "k": 1},
    ]
    response = client.post("/recommend/batch", json={"requests": requests})
    assert response.status_code == 200
    BatchAnswer.model_validate_json(response.content)
    results = response.json()["results"]
    statuses = [result.get("status", 200) for result in results]
    assert statuses == [200, 404, 200, 422, 422, 422, 422, 200]
    assert results[3]["errors"][0]["loc"] == ["k"]
    assert results[2]["items"] == ask(client, VIDEOS, user_id=user, k=3)["items"]
    assert response.headers["X-Model-Version"] == results[0]["model"]["version"]
