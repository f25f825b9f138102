"""The application as a whole: two at once, models, health, metrics, what it imports and tells."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from app_client import make_settings, serve
from starlette.testclient import TestClient
from structlog.testing import capture_logs
from tiny_bundle_builder import TINY_VERSIONS

from service.answer_schemas import CurrentAnswer, ModelsAnswer, ReadyAnswer
from service.app import create_app
from service.current_request import name_request

FIRST, SECOND = TINY_VERSIONS


def current(client: TestClient) -> str:
    version: str = client.get("/admin/models").json()["current"]
    answering = client.post("/recommend/videos", json={"history": {}}).headers["X-Model-Version"]
    assert answering == version
    return version


def test_two_applications_with_different_settings_live_in_one_process(
    tiny_registry: Path, tiny_master: Path, store_url: str, tmp_path: Path
) -> None:
    one = make_settings(tiny_master, store_url, max_k=3)
    other = make_settings(tiny_registry, "embedded", store_folder=tmp_path / "s", admin_keys="key")
    with serve(one) as first, serve(other) as second:
        headers = {"Authorization": "Bearer key"}
        activated = second.post(f"/admin/models/{SECOND}/activate", headers=headers)
        assert activated.json() == {"current": SECOND}
        assert current(first) == FIRST
        body = {"user_id": "u", "k": 4}
        assert first.post("/recommend/videos", json=body).status_code == 422
        assert second.post("/recommend/videos", json=body).status_code == 401
        assert second.post("/recommend/videos", json=body, headers=headers).status_code == 200
        assert f'version="{SECOND}"' not in first.get("/metrics").text
        assert f'version="{SECOND}"' in second.get("/metrics").text


def test_models_are_activated_rolled_back_and_refused(tiny_registry: Path, store_url: str) -> None:
    with serve(make_settings(tiny_registry, store_url)) as client:
        listing = ModelsAnswer.model_validate_json(client.get("/admin/models").content)
        assert [entry["version"] for entry in listing.models] == [FIRST, SECOND]
        assert client.post("/admin/models/rollback").status_code == 404
        response = client.post(f"/admin/models/{SECOND}/activate")
        assert CurrentAnswer.model_validate_json(response.content).current == SECOND
        assert current(client) == SECOND
        assert client.post("/admin/models/rollback").json() == {"current": FIRST}
        assert client.post("/admin/models/none-such/activate").status_code == 404

        table = tiny_registry / SECOND / "tables" / "video_candidate_VD.npy"
        table.write_bytes(table.read_bytes()[:-1] + b"\x00")
        refused = client.post(f"/admin/models/{SECOND}/activate")
        assert refused.status_code == 409
        assert "checksum" in refused.json()["detail"]
        assert str(tiny_registry) not in refused.text
        assert current(client) == FIRST, "the old one goes on serving"


def test_what_another_process_activates_is_followed(tiny_registry: Path, store_url: str) -> None:
    with serve(make_settings(tiny_registry, store_url)) as client:
        pointer = tiny_registry / "current.json"
        pointer.write_text(json.dumps({**json.loads(pointer.read_text()), "version": SECOND}))
        assert client.post("/admin/models/refresh").json() == {"current": SECOND}
        assert current(client) == SECOND


def test_without_a_bundle_it_lives_but_is_not_ready(tmp_path: Path, store_url: str) -> None:
    with serve(make_settings(tmp_path, store_url)) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["reasons"]
        response = client.post("/recommend/videos", json={"user_id": "u"})
        assert response.status_code == 503
        assert response.headers["Retry-After"]
        assert client.get("/metrics").status_code == 200


def test_a_wanted_gpu_that_is_missing_is_not_ready(tiny_master: Path, store_url: str) -> None:
    settings = make_settings(tiny_master, store_url).model_copy(update={"device": "cuda"})
    with serve(settings) as client:
        ready = client.get("/health/ready")
    if ready.status_code == 200:
        pytest.skip("this machine has a GPU")
    assert "cuda" in ready.text


def test_ready_tells_what_answers(client: TestClient) -> None:
    ready = ReadyAnswer.model_validate_json(client.get("/health/ready").content)
    assert ready.model["version"] == FIRST
    assert ready.degraded == []


def test_metrics_count_by_route_and_not_by_path(client: TestClient) -> None:
    client.get("/videos/v1/similar")
    client.get("/videos/v2/similar")
    client.get("/random/path/of/a/scanner")
    lines = client.get("/metrics").text.splitlines()
    similar = 'lsvcr_requests_total{route="/videos/{video_id}/similar",status="200"}'
    assert f"{similar} 2.0" in lines
    assert not [line for line in lines if "scanner" in line]
    for name in (
        "request_duration_seconds_bucket",
        "queue_waiting",
        "model_info",
        "batch_size_bucket",
    ):
        assert any(line.startswith(f"lsvcr_{name}") for line in lines), name


def test_an_unexpected_error_tells_nothing_and_is_logged(tiny_master: Path, store_url: str) -> None:
    app = create_app(make_settings(tiny_master, store_url))

    @app.get("/health/live/broken")
    async def broken() -> None:
        raise RuntimeError("the password is 1234")

    with TestClient(app, raise_server_exceptions=False) as client, capture_logs() as logs:
        response = client.get("/health/live/broken", headers={"X-Request-Id": "r-1"})
    assert response.status_code == 500
    assert response.headers["X-Request-Id"] == "r-1"
    assert response.json()["title"] == "Something went wrong on our side"
    assert "1234" not in response.text
    assert any(isinstance(line.get("exc_info"), RuntimeError) for line in logs)


def test_log_lines_name_the_trace_while_a_request_runs(tiny_master: Path, store_url: str) -> None:
    app = create_app(make_settings(tiny_master, store_url))

    @app.get("/bound")
    async def bound() -> dict[str, Any]:
        return dict(name_request(None, "info", {}))

    trace_id = "0af7651916cd43dd8448eb211c80319c"
    with TestClient(app) as client:
        for value, expected in (
            (f"00-{trace_id}-b7ad6b7169203331-01", trace_id),
            (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
            ("nonsense", None),
        ):
            context = client.get("/bound", headers={"traceparent": value}).json()
            assert context.get("trace_id") == expected
            assert context["request_id"]


def test_the_openapi_document_tells_the_bodies(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, model in (
        ("/recommend/videos", "VideosBody"),
        ("/recommend/batch", "BatchBody"),
        ("/events", "EventsBody"),
    ):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert body["schema"]["$ref"].endswith(model)
    event = document["components"]["schemas"]["EventBody"]
    assert set(event["required"]) == {"event_id", "user_id", "type", "timestamp"}
    assert event["additionalProperties"] is False
    answers = document["paths"]["/recommend/videos"]["post"]["responses"]
    assert set(answers) == {"200", "4XX", "5XX"}
    found = answers["200"]["content"]["application/json"]["schema"]["$ref"]
    assert found.endswith("VideosAnswer")
    report = document["paths"]["/admin/experiments/{name}/report"]["get"]["responses"]["200"]
    assert set(report["content"]) == {"application/json", "text/html"}
    problem = answers["4XX"]["content"].pop("application/problem+json")["schema"]["$ref"]
    assert problem.rsplit("/", 1)[-1] in document["components"]["schemas"]
    assert not answers["4XX"]["content"]


def test_the_documentation_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    for text in ("/recommend/videos", "watch_time_ms", "comments_per_video", "Role"):
        assert text.lower() in page.text.lower()
    assert "http" not in page.text
    assert "<script" not in page.text


def test_serving_imports_no_training_library() -> None:
    program = (
        "import sys, service.serving;"
        "banned = {'torch', 'transformers', 'onnx', 'pandas', 'polars'};"
        "sys.exit(', '.join(banned & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_registry_may_be_filled_later(tiny_master: Path, tmp_path: Path, store_url: str) -> None:
    registry = tmp_path / "registry"
    registry.mkdir()
    with serve(make_settings(registry, store_url)) as client:
        assert client.get("/health/ready").status_code == 503
        shutil.copytree(tiny_master, registry, dirs_exist_ok=True)
        assert client.post("/admin/models/refresh").status_code == 200
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere_and_can_not_be_framed(
    client: TestClient, path: str
) -> None:
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_every_link_of_the_document_leads_to_parameters_that_are_there(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    operations = {one["operationId"]: one for path in paths.values() for one in path.values()}
    links = [
        link
        for operation in operations.values()
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert len(links) > 20
    for link in links:
        target = operations[link["operationId"]]
        known = {f"{one['in']}.{one['name']}" for one in target.get("parameters", ())}
        assert set(link.get("parameters", ())) <= known
        assert "requestBody" in target or "requestBody" not in link
