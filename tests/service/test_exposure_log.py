"""Exposures: what an answer leaves in the log, with a real store behind it."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_client import make_settings, serve
from experiment_apps import FIRST, HISTORY, SECOND, definition, put, units_of, wait_until
from starlette.testclient import TestClient

from service import exposure_log
from service.embedded_store import EmbeddedStore
from service.errors import HistoryStoreError
from service.exposure_log import Exposure, ExposureLog
from service.store_connection import connect_store


@pytest.fixture(scope="module")
def client(tiny_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with (
        EmbeddedStore(tmp_path_factory.mktemp("store")) as embedded,
        serve(make_settings(tiny_master, embedded.url)) as client,
    ):
        yield client


def exposures(client: TestClient, user: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/users/{user}/export").json()["exposures"]
    return found


def exposure(number: int, **fields: Any) -> Exposure:
    defaults = {"endpoint": "videos", "model_version": "m", "source": "model", "k": 1}
    return Exposure(
        recommendation_id=f"r{number}", timestamp=number, latency_ms=1.0, **{**defaults, **fields}
    )


def test_an_answer_leaves_what_was_shown_to_whom_and_by_what(client: TestClient) -> None:
    put(client, definition())
    unit = units_of(client, "x", "treatment", 1)[0]
    body = {"user_id": "somebody", "unit_id": unit, "history": HISTORY, "k": 2}
    answers = {
        kind: client.post(f"/recommend/{kind}", json={**body, **more}).json()
        for kind, more in (("videos", {}), ("comments", {"video_id": "v3"}), ("feed", {}))
    }
    logged = exposures(client, "somebody")
    assert [one["endpoint"] for one in logged] == ["videos", "comments", "feed"]
    for one in logged:
        answer = answers[one["endpoint"]]
        assert one["recommendation_id"] == answer["recommendation_id"]
        assert (one["user_id"], one["unit_id"], one["k"]) == ("somebody", unit, 2)
        assert one["experiments"] == [{"experiment": "x", "arm": "treatment", "reason": "bucket"}]
        assert one["model_version"] == SECOND
        assert one["scores"] == [round(item["score"], 5) for item in answer["items"]]
        assert one["latency_ms"] == answer["timings_ms"]["total"]
    videos, comments, feed = logged
    assert videos["video_ids"] == [item["video_id"] for item in answers["videos"]["items"]]
    assert comments["comment_ids"] == [item["comment_id"] for item in answers["comments"]["items"]]
    assert comments["on_video"] == "v3"
    shown = [
        comment["comment_id"] for item in answers["feed"]["items"] for comment in item["comments"]
    ]
    assert feed["comment_ids"] == shown
    assert client.delete("/users/somebody").status_code == 204
    assert exposures(client, "somebody") == []
    client.post("/admin/experiments/x/stop")
    client.delete("/admin/experiments/x")


def test_a_shadow_arm_is_computed_and_logged_and_never_answered(client: TestClient) -> None:
    arms = [
        {"name": "control", "weight": 1.0},
        {"name": "new", "model_version": SECOND, "shadow": True, "overrides": {"max_history": 1}},
    ]
    put(client, definition("shade", arms=arms))
    body = {"user_id": "shaded", "history": HISTORY, "k": 3}
    response = client.post("/recommend/videos", json=body)
    assert response.headers["X-Model-Version"] == FIRST
    assert response.headers["X-Arm"] == "control"
    wait_until(lambda: len(exposures(client, "shaded")) == 2, "the shadow arm is logged")
    shown, shadow = sorted(exposures(client, "shaded"), key=lambda one: "is_shadow" in one)
    assert shown["experiments"][0]["arm"] == "control"
    assert shadow["is_shadow"]
    assert shadow["recommendation_id"] == shown["recommendation_id"]
    assert shadow["experiments"] == [{"experiment": "shade", "arm": "new", "reason": "shadow"}]
    assert shadow["model_version"] == SECOND
    assert shadow["history_used"] == [1, 1]
    assert len(shadow["video_ids"]) == 3
    metrics = client.get("/metrics").text
    assert 'lsvcr_shadow_answers_total{outcome="done"} 1.0' in metrics
    client.post("/admin/experiments/shade/stop")
    client.delete("/admin/experiments/shade")


def test_what_cannot_be_written_waits_and_what_is_too_much_is_counted(
    store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposure_log, "MAX_WAITING", 5)
    outcomes = Counter[str]()

    async def main() -> list[str]:
        embedded = EmbeddedStore(store_folder)
        redis = connect_store(embedded.url, timeout_s=5.0, max_connections=2)
        log = ExposureLog(
            redis,
            timeout_s=5.0,
            max_entries=100,
            on_outcome=lambda outcome, count: outcomes.update({outcome: count}),
        )
        for number in range(7):
            log.record(exposure(number, user_id="u"))
        with pytest.raises(HistoryStoreError):
            await log.flush()
        await asyncio.to_thread(embedded.start)
        try:
            await log.flush()
            return [one.recommendation_id for one in await log.fetch_user("u")]
        finally:
            await redis.aclose(close_connection_pool=True)
            await asyncio.to_thread(embedded.stop)

    assert asyncio.run(main()) == ["r0", "r1", "r2", "r3", "r4"]
    assert outcomes == {"dropped": 2, "written": 5}


def test_what_comes_while_some_are_written_is_left_to_the_next_time(store_url: str) -> None:
    written: list[int] = []

    async def main() -> None:
        redis = connect_store(store_url, timeout_s=5.0, max_connections=2)
        log = ExposureLog(
            redis,
            timeout_s=5.0,
            max_entries=100,
            on_outcome=lambda outcome, count: written.append(count),
        )
        log.record(exposure(1, user_id="u"))
        log.record(exposure(2, user_id="u"))
        writing = asyncio.create_task(log.flush())
        await asyncio.sleep(0)  # the store has been asked, and hasn't answered
        log.record(exposure(3, user_id="u"))
        await writing
        assert written == [2]
        await log.flush()
        await redis.aclose(close_connection_pool=True)

    asyncio.run(main())
    assert written == [2, 1]
