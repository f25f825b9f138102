"""Experiments on the real application with a real store: from definition to answer."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from app_client import make_settings, serve
from experiment_apps import (
    FIRST,
    SECOND,
    assignments,
    definition,
    put,
    recommend,
    units_of,
    wait_until,
)
from starlette.testclient import TestClient

from service.embedded_store import EmbeddedStore
from service.experiments.assignment import assign
from service.experiments.definition import Experiment

ADMIN = {"Authorization": "Bearer admin-key"}
ASKING = {"Authorization": "Bearer asking-key"}
AA = [{"name": "control", "weight": 0.5}, {"name": "treatment", "weight": 0.5}]


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store that no other file's applications look into: experiments concern all of them."""
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as embedded:
        yield embedded.url


@pytest.fixture(scope="module")
def app(tiny_master: Path, own_store: str) -> Iterator[TestClient]:
    with serve(make_settings(tiny_master, own_store)) as client:
        yield client


@pytest.fixture
def client(app: TestClient) -> Iterator[TestClient]:
    """The shared application, left without experiments."""
    yield app
    for one in app.get("/admin/experiments").json()["experiments"]:
        app.post(f"/admin/experiments/{one['name']}/stop")
        assert app.delete(f"/admin/experiments/{one['name']}").status_code == 204


def test_a_definition_is_kept_as_it_was_put_and_every_change_is_written_down(
    client: TestClient,
) -> None:
    body = definition("life", status="draft")
    put(client, body)
    kept = client.get("/admin/experiments/life").json()
    dumped = Experiment.model_validate(body).model_dump(mode="json", by_alias=True)
    assert {**kept, **dumped} == kept
    assert kept["primary_metric"] == "watch_time_ms"
    put(client, {**body, "status": "running", "coverage": 0.5})
    refused = client.delete("/admin/experiments/life")
    assert refused.status_code == 409
    assert "stop it first" in refused.json()["detail"]
    stopped = client.post("/admin/experiments/life/stop").json()
    assert (stopped["status"], stopped["coverage"]) == ("stopped", 0.5)
    assert stopped["created_at"] == kept["created_at"]
    assert client.delete("/admin/experiments/life").status_code == 204
    audit = client.get("/admin/experiments/life/audit").json()["entries"]
    assert [entry["action"] for entry in audit] == ["delete", "stop", "put", "put"]
    assert {entry["who"] for entry in audit} == {"no key"}
    assert audit[-1]["before"] is None
    assert audit[0]["after"] is None
    for newer, older in pairwise(audit):
        assert newer["before"] == older["after"]
        assert newer["at"] >= older["at"]
    for method, path in (("GET", ""), ("POST", "/stop"), ("DELETE", "")):
        missing = client.request(method, f"/admin/experiments/life{path}")
        assert missing.status_code == 404
        assert missing.json()["type"] == "urn:lsvcr:problem:unknown-experiment"


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"arms": [{"name": "control", "weight": 0.9}]}, ["body"]),
        ({"control": "nobody"}, ["body"]),
        ({"coverage": 1.5}, ["body", "coverage"]),
        ({"colour": "red"}, ["body", "colour"]),
        ({"guardrails": {"error_rate": 2}}, ["body", "guardrails", "error_rate"]),
        ({"name": "other"}, ["body", "name"]),
    ],
)
def test_a_broken_definition_is_refused_with_its_place(
    client: TestClient, fields: dict[str, Any], place: list[str]
) -> None:
    response = client.put("/admin/experiments/broken", json={**definition("broken"), **fields})
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == place
    assert client.get("/admin/experiments").json() == {"experiments": []}
    assert client.get("/admin/experiments/broken/audit").json() == {"entries": []}


@pytest.mark.parametrize("status", ["draft", "running"])
def test_an_arm_whose_bundle_cannot_be_loaded_is_refused(client: TestClient, status: str) -> None:
    arms = [
        {"name": "control", "weight": 0.5},
        {"name": "treatment", "weight": 0.5, "model_version": "20990101T000000Z-gone"},
    ]
    problem = put(client, definition("gone", arms=arms, status=status), expected=409)
    assert problem["type"] == "urn:lsvcr:problem:experiment-refused"
    assert problem["detail"].startswith("arm 'treatment': ")
    assert "20990101T000000Z-gone" in problem["detail"]


def test_a_damaged_bundle_is_refused_as_an_arm(tiny_registry: Path, own_store: str) -> None:
    (tiny_registry / SECOND / "encoder.onnx").write_bytes(b"\0")
    with serve(make_settings(tiny_registry, own_store)) as client:
        problem = put(client, definition("damaged"), expected=409)
        assert "arm 'treatment'" in problem["detail"]
        assert recommend(client, "u").headers["X-Model-Version"] == FIRST


def test_arms_are_answered_by_their_models(client: TestClient) -> None:
    body = definition("models", coverage=0.8)
    put(client, body)
    rule = Experiment.model_validate(body)
    seen = set()
    for unit in map(str, range(40)):
        response = recommend(client, unit)
        expected = assign(rule, unit).arm
        version = {None: FIRST, "control": FIRST, "treatment": SECOND}[expected]
        answer = response.json()
        assert response.headers["X-Model-Version"] == answer["model"]["version"] == version
        assert response.headers.get("X-Arm") == answer["model"]["arm"] == expected
        experiment = None if expected is None else "models"
        assert response.headers.get("X-Experiment") == answer["model"]["experiment"] == experiment
        seen.add(expected)
    assert seen == {None, "control", "treatment"}
    treated = units_of(client, "models", "treatment", 1)[0]
    for path, fields in (("comments", {"video_id": "v3"}), ("feed", {})):
        asked = {"user_id": treated, **fields}  # without unit_id the user is the unit
        assert client.post(f"/recommend/{path}", json=asked).headers["X-Model-Version"] == SECOND
    requests = [{"kind": "videos", "user_id": unit} for unit in (treated, "nobody-special")]
    results = client.post("/recommend/batch", json={"requests": requests}).json()["results"]
    assert results[0]["model"] == {
        "version": SECOND,
        "arm": "treatment",
        "experiment": "models",
    }
    nobody = client.post("/recommend/videos", json={"history": {}}).json()["model"]
    assert nobody == {"version": FIRST, "arm": None, "experiment": None}


def test_a_stop_gives_everybody_the_control(client: TestClient) -> None:
    arms = [
        {"name": "control", "weight": 0.5, "model_version": SECOND},  # not the current one
        {"name": "treatment", "weight": 0.5},
    ]
    put(client, definition("stop", arms=arms, coverage=0.5, forced={"u": "treatment"}))
    assert recommend(client, "u").headers["X-Arm"] == "treatment"
    client.post("/admin/experiments/stop/stop")
    for unit in ("u", *map(str, range(5))):
        response = recommend(client, unit, headers={"X-Arm": "treatment"})
        assert response.headers["X-Arm"] == "control"
        assert response.headers["X-Model-Version"] == SECOND
        assert assignments(client, unit)["stop"] == ("control", "stopped")


def test_overrides_change_the_ranking_and_a_request_stands_above_them(client: TestClient) -> None:
    few = {"max_history": 1, "diversity": {"lambda": 1.0, "max_per_category": 1}}
    arms = [AA[0], {**AA[1], "overrides": few}]
    put(client, definition("rules", arms=arms))
    treated, control = (units_of(client, "rules", arm, 1)[0] for arm in ("treatment", "control"))
    answer = recommend(client, treated, k=20).json()
    assert answer["history_used"] == {"videos": 1, "comments": 1}
    assert len(answer["items"]) < 20  # one of each category
    own = recommend(client, treated, k=20, diversity={"lambda": 1.0}).json()
    assert len(own["items"]) == 20
    assert recommend(client, control, k=20).json()["history_used"] == {"videos": 3, "comments": 2}


def test_running_experiments_may_not_decide_the_same_for_the_same_users(
    client: TestClient,
) -> None:
    put(client, definition("first"))
    problem = put(client, definition("second"), expected=409)
    assert "'first' is running and chooses model_version" in problem["detail"]
    put(client, definition("second", status="draft"))
    put(client, definition("aa", arms=AA))
    put(client, definition("rules", arms=[AA[0], {**AA[1], "overrides": {"max_history": 1}}]))
    shared = next(
        unit
        for unit in map(str, range(100))
        if [assignments(client, unit)[name][0] for name in ("first", "rules")] == ["treatment"] * 2
    )
    response = recommend(client, shared)
    assert response.headers["X-Experiment"] == "first"  # the oldest of those that applied
    assert response.headers["X-Model-Version"] == SECOND
    assert response.json()["history_used"]["videos"] == 1  # and yet the other's arm applied, too


def test_in_a_layer_each_user_is_in_one_experiment(client: TestClient) -> None:
    put(client, definition("older", layer="ranking", layer_range=[0.0, 0.5]))
    put(client, definition("newer", layer="ranking", layer_range=[0.5, 1.0]))
    for unit in map(str, range(30)):
        arms = assignments(client, unit)
        inside = [name for name in ("older", "newer") if arms[name][0] is not None]
        assert len(inside) == 1
        response = recommend(client, unit)
        assert response.headers["X-Experiment"] == inside[0]
        assert response.headers["X-Arm"] == arms[inside[0]][0]


def test_who_has_an_arm_keeps_it_where_the_experiment_is_sticky(client: TestClient) -> None:
    put(client, definition("sticky", sticky=True))
    put(client, definition("loose", arms=AA))
    kept = {unit: recommend(client, unit).headers["X-Arm"] for unit in map(str, range(20))}
    body = definition("sticky", sticky=True, seed="another")
    wait_until(
        lambda: all(client.get(f"/users/{unit}/export").json()["arms"] for unit in kept),
        "the arms are remembered",
    )
    put(client, body)
    for unit, arm in kept.items():
        assert recommend(client, unit).headers["X-Arm"] == arm
        assert assignments(client, unit)["sticky"] == (arm, "sticky")
    rule = Experiment.model_validate(body)
    assert any(assign(rule, unit).arm != arm for unit, arm in kept.items())
    assert client.delete("/users/7").status_code == 204
    assert assignments(client, "7")["sticky"] == (assign(rule, "7").arm, "bucket")


@pytest.mark.parametrize("trusting", [False, True])
def test_a_header_forces_an_arm_for_admins_and_for_a_trusted_gateway(
    tiny_master: Path, own_store: str, trusting: bool
) -> None:
    keys = {"admin_keys": "admin-key", "recommend_keys": "asking-key"}
    settings = make_settings(tiny_master, own_store, trust_arm_header=trusting, **keys)
    with serve(settings) as client:
        client.headers.update(ADMIN)
        put(client, definition("forced", coverage=0.0))
        for arm, version in (("control", FIRST), ("treatment", SECOND)):
            response = recommend(client, "u", headers={"X-Arm": arm})
            assert response.headers["X-Arm"] == arm
            assert response.headers["X-Model-Version"] == version
        assert "X-Arm" not in recommend(client, "u").headers

        def ask(headers: dict[str, str]) -> int:
            return client.post(
                "/recommend/videos", json={"user_id": "u"}, headers=headers
            ).status_code

        assert ask({**ASKING, "X-Arm": "treatment"}) == (200 if trusting else 403)
        assert ask({**ADMIN, "X-Arm": "nobody"}) == (200 if trusting else 422)
        assert client.get("/admin/experiments", headers=ASKING).status_code == 403
        who = client.get("/admin/experiments/forced/audit").json()["entries"][0]["who"]
        assert len(who) == 12
        assert who not in "admin-key"
        client.post("/admin/experiments/forced/stop")
        client.delete("/admin/experiments/forced")


def test_an_assignment_needs_a_unit(client: TestClient) -> None:
    put(client, definition("units", arms=AA))
    assert client.get("/experiments/assignment").status_code == 422
    by_unit, by_user = (
        client.get("/experiments/assignment", params={name: "u1"}).json()
        for name in ("unit_id", "user_id")
    )
    assert by_unit == by_user
    [line] = by_unit["assignments"]
    assert line["bucket"] == assign(Experiment.model_validate(definition("units")), "u1").bucket
