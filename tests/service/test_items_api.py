"""What the service tells of items by id, of recent users, and the playground's page."""

import time
from uuid import uuid4

from starlette.testclient import TestClient

from service.answer_schemas import CommentDetailsAnswer, UsersAnswer, VideoDetailsAnswer

DAY_MS = 86_400_000


def test_videos_are_described_in_the_order_of_the_question(client: TestClient) -> None:
    response = client.get("/videos?id=v11&id=none-such&id=v8&id=v9&id=v10")
    VideoDetailsAnswer.model_validate_json(response.content)
    assert response.json()["videos"] == [
        {
            "video_id": name,
            "title": f"title of {name}",
            "category": k,
            "author_id": a,
            "published_at": at,
        }
        for name, k, a, at in (
            ("v11", "k3", "a4", 11 * DAY_MS),
            ("v8", "k0", "a1", None),
            ("v9", "k1", None, 9 * DAY_MS),
            ("v10", None, "a3", 10 * DAY_MS),
        )
    ]


def test_comments_are_described_with_their_video(client: TestClient) -> None:
    answer = client.get("/comments?id=c5&id=none-such").json()
    CommentDetailsAnswer.model_validate(answer)
    (comment,) = answer["comments"]
    assert (comment["comment_id"], comment["text"]) == ("c5", "text of c5")
    under = client.post(
        "/recommend/comments", json={"history": {}, "video_id": comment["video_id"], "k": 100}
    )
    assert "c5" in [item["comment_id"] for item in under.json()["items"]]


def test_ids_are_needed_and_few(client: TestClient) -> None:
    too_many = "&".join(f"id=v{number}" for number in range(201))
    for query in ("", "?id=", f"?{too_many}", "?id=a%00"):
        for path in ("/videos", "/comments"):
            assert client.get(path + query).status_code == 422, query


def test_the_latest_users_come_first(client: TestClient) -> None:
    users = [f"user-{uuid4()}" for _ in range(6)]
    for user in [*users, users[0]]:
        event = {"event_id": str(uuid4()), "user_id": user, "type": "video_watch", "video_id": "v1"}
        event["timestamp"] = time.time_ns() // 1_000_000
        assert client.post("/events", json={"events": [event]}).status_code == 200
    answer = client.get("/users?limit=5").json()
    UsersAnswer.model_validate(answer)
    assert answer["user_ids"] == [users[0], *users[:1:-1]]
    assert client.get("/users?limit=0").status_code == 422


def test_the_page_may_use_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    policy = dict(
        part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert "http" not in page.text.replace("http-equiv", "")
    assert "style=" not in page.text and " onclick" not in page.text


def test_only_the_pages_own_files_are_served(client: TestClient) -> None:
    script = client.get("/playground/main.js")
    assert script.status_code == 200
    assert script.headers["Content-Type"].startswith("text/javascript")
    for path in ("none.js", "index.html", "..%2fapp.py", "%2e%2e/app.py", ".", "%2fetc%2fpasswd"):
        assert client.get(f"/playground/{path}").status_code == 404, path
