"""The store goes away and comes back: reads fail open, writes fail closed."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from app_client import make_settings, serve
from starlette.testclient import TestClient

from service.embedded_store import EmbeddedStore

EVENT = {"user_id": "u", "type": "video_watch", "video_id": "v3", "timestamp": 1}


def send(client: TestClient, event_id: str) -> Any:
    return client.post("/events", json={"events": [{**EVENT, "event_id": event_id}]})


def recommend(client: TestClient) -> dict[str, Any]:
    response = client.post("/recommend/videos", json={"user_id": "u"})
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


def test_a_lost_store_degrades_reads_refuses_writes_and_is_used_again(
    tiny_master: Path, store_folder: Path
) -> None:
    with EmbeddedStore(store_folder) as embedded:
        settings = make_settings(tiny_master, embedded.url, store_timeout_ms=500)
        with serve(settings) as client:
            assert send(client, "first").json()["accepted"] == 1
            assert recommend(client)["source"] == "model"
            time.sleep(1.1)  # the append-only file reaches the disk each second
            assert embedded.pid is not None
            os.kill(embedded.pid, signal.SIGKILL)

            for _ in range(8):
                answer = recommend(client)
                assert answer["degraded"] == ["history_store"]
                assert answer["source"] == "popular"
            body = {"requests": [{"kind": "videos", "user_id": "u"}] * 2}
            results = client.post("/recommend/batch", json=body).json()["results"]
            assert all(result["degraded"] == ["history_store"] for result in results)
            inline = {"history": {"videos": [{"video_id": "v3", "timestamp": 1}]}}
            assert client.post("/recommend/videos", json=inline).json()["degraded"] == []
            refused = send(client, "second")
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "1"
            assert refused.headers["content-type"] == "application/problem+json"
            for method, path in (("GET", "/users/u/history"), ("DELETE", "/users/u")):
                assert client.request(method, path).status_code == 503
            ready = client.get("/health/ready")
            assert (ready.status_code, ready.json()["degraded"]) == (200, ["history_store"])
            metrics = client.get("/metrics").text
            assert 'lsvcr_degraded_answers_total{cause="history_store"} 10.0' in metrics

            embedded.stop()
            embedded.start()
            time.sleep(1.1)  # the breaker's pause
            assert recommend(client)["degraded"] == []
            assert recommend(client)["history_used"]["videos"] == 1
            assert send(client, "second").json()["accepted"] == 1
            assert client.get("/health/ready").json()["degraded"] == []


def test_a_service_starts_without_its_store(tiny_master: Path, tmp_path: Path) -> None:
    settings = make_settings(tiny_master, f"unix://{tmp_path}/nobody.sock")
    with serve(settings) as client:
        assert client.get("/health/ready").json()["degraded"] == ["history_store"]
        assert recommend(client)["degraded"] == ["history_store"]


def test_a_slow_store_costs_its_timeout_only(tiny_master: Path, store_folder: Path) -> None:
    with EmbeddedStore(store_folder) as embedded:
        settings = make_settings(tiny_master, embedded.url, store_timeout_ms=60)
        with serve(settings) as client:
            recommend(client)
            assert embedded.pid is not None
            os.kill(embedded.pid, signal.SIGSTOP)
            try:
                answer = recommend(client)
            finally:
                os.kill(embedded.pid, signal.SIGCONT)
    assert answer["degraded"] == ["history_store"]
    assert 60 <= answer["timings_ms"]["history"] < 500
