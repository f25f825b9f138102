"""Experiments on running applications: definitions, and waiting for what takes effect elsewhere."""

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from starlette.testclient import TestClient
from tiny_bundle_builder import TINY_VERSIONS

FIRST, SECOND = TINY_VERSIONS
HISTORY = {
    "videos": [{"video_id": f"v{n}", "timestamp": n} for n in (3, 9, 4)],
    "comments": [{"comment_id": "c5", "timestamp": 9}, {"comment_id": "c9", "timestamp": 10}],
}


def definition(name: str = "x", **fields: Any) -> dict[str, Any]:
    """Two arms of two bundles, running; fields replace those."""
    arms = [
        {"name": "control", "weight": 0.5, "model_version": FIRST},
        {"name": "treatment", "weight": 0.5, "model_version": SECOND},
    ]
    return {"name": name, "arms": arms, "control": "control", "status": "running", **fields}


def put(client: TestClient, body: dict[str, Any], expected: int = 200) -> dict[str, Any]:
    response = client.put(f"/admin/experiments/{body['name']}", json=body)
    assert response.status_code == expected, response.text
    answer: dict[str, Any] = response.json()
    return answer


def assignments(client: TestClient, unit: str) -> dict[str, tuple[str | None, str]]:
    answer = client.get("/experiments/assignment", params={"user_id": unit}).json()
    return {one["experiment"]: (one["arm"], one["reason"]) for one in answer["assignments"]}


def recommend(client: TestClient, unit: str | None, **fields: Any) -> Any:
    """The response to somebody with a known history, asked for under a unit's name."""
    body = {"unit_id": unit, "history": HISTORY, "k": 5, **fields}
    response = client.post("/recommend/videos", json=body, headers=body.pop("headers", None))
    assert response.status_code == 200, response.text
    return response


def units_of(client: TestClient, name: str, arm: str, count: int = 3) -> list[str]:
    """Some units that are in an arm."""
    units = (unit for unit in map(str, range(400)) if assignments(client, unit)[name][0] == arm)
    found = list(islice(units, count))
    assert len(found) == count
    return found


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for what another replica does in its own time; a minute is for the busiest machine."""
    until_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until_s, f"still waiting until {what}"
        time.sleep(0.02)
