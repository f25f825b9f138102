"""Keys and roles: who may do what."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_client import make_settings, serve
from starlette.routing import Route
from starlette.testclient import TestClient

from service.auth import OPEN_PATHS, KeyRing, role_needed
from service.routes import events, health, items, models, playground, recommend

KEYS = {"admin": "adm-1", "recommend": "rec-1", "ingest": "ing-1"}


@pytest.fixture(scope="module")
def locked(
    tiny_master: Path, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    key_file = tmp_path_factory.mktemp("keys") / "recommend"
    key_file.write_text("rec-of-file\n")
    settings = make_settings(
        tiny_master,
        store_url,
        admin_keys="adm-0, adm-1",
        recommend_keys="rec-1",
        ingest_keys="ing-1",
        recommend_keys_file=key_file,
    )
    with serve(settings) as client:
        yield client


def with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("POST", "/recommend/videos", "recommend"),
        ("POST", "/recommend/comments", "recommend"),
        ("POST", "/recommend/feed", "recommend"),
        ("POST", "/recommend/batch", "recommend"),
        ("GET", "/videos/v1/similar", "recommend"),
        ("GET", "/videos?id=v1", "recommend"),
        ("GET", "/comments?id=c1", "recommend"),
        ("POST", "/events", "ingest"),
        ("GET", "/users", "admin"),
        ("GET", "/users/u/history", "admin"),
        ("GET", "/users/u/export", "admin"),
        ("DELETE", "/users/u", "admin"),
        ("GET", "/admin/models", "admin"),
        ("POST", "/admin/models/x/activate", "admin"),
        ("POST", "/admin/models/rollback", "admin"),
        ("POST", "/admin/models/refresh", "admin"),
        ("GET", "/no/such/path", "admin"),
    ],
)
def test_each_path_asks_for_its_role(locked: TestClient, method: str, path: str, role: str) -> None:
    for headers in ({}, with_key("wrong"), {"Authorization": "Basic YTpi"}, with_key("")):
        response = locked.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["request_id"] == response.headers["X-Request-Id"]
    for owner, key in KEYS.items():
        response = locked.request(method, path, headers=with_key(key))
        is_allowed = owner in (role, "admin")
        assert (response.status_code not in (401, 403)) == is_allowed, response.text
        assert is_allowed or response.status_code == 403


def test_every_key_of_a_role_counts(locked: TestClient) -> None:
    for key in ("rec-1", "rec-of-file", "adm-0", "adm-1"):
        headers = with_key(key)
        response = locked.post("/recommend/videos", json={"user_id": "u"}, headers=headers)
        assert response.status_code == 200
    lower = {"authorization": "bearer rec-1"}
    assert locked.post("/recommend/videos", json={"user_id": "u"}, headers=lower).status_code == 200


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_some_paths_are_open(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 200


def test_every_route_is_either_open_on_purpose_or_has_its_role(locked: TestClient) -> None:
    prefixes = {
        "/recommend": "recommend",
        "/videos": "recommend",
        "/comments": "recommend",
        "/events": "ingest",
    }
    modules = (recommend, items, events, models, health, playground)
    routers = [module.router for module in modules]
    paths = {
        route.path for router in routers for route in router.routes if isinstance(route, Route)
    }
    assert len(paths) >= 15
    for path in paths:
        expected = next((r for start, r in prefixes.items() if path.startswith(start)), "admin")
        is_open = path in OPEN_PATHS or path.startswith("/playground/")
        assert role_needed(path) == (None if is_open else expected)
    document = locked.get("/openapi.json").json()
    assert document["paths"]["/events"]["post"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/health/live"]["get"]


def test_without_keys_everything_is_open(client: TestClient) -> None:
    assert client.get("/admin/models").status_code == 200


def test_a_key_may_have_several_roles_and_a_prefix_has_none() -> None:
    ring = KeyRing({"recommend": ["a", "b"], "ingest": ["a"]})
    assert ring.roles_of("a") == {"recommend", "ingest"}
    assert ring.roles_of("b") == {"recommend"}
    assert ring.roles_of("") == ring.roles_of("aa") == set()
    assert not KeyRing({"admin": []})


def test_keys_of_files_change_without_a_restart(
    tiny_master: Path, store_url: str, tmp_path: Path
) -> None:
    keys = tmp_path / "recommend"
    keys.write_text("old-key\n")
    settings = make_settings(
        tiny_master, store_url, recommend_keys_file=keys, keys_refresh_s=0.02, admin_keys="adm"
    )
    with serve(settings) as client:

        def wait_for(key: str, status: int) -> None:
            until_s = time.monotonic() + 10
            while time.monotonic() < until_s:
                response = client.get("/videos/v1/similar", headers=with_key(key))
                if response.status_code == status:
                    return
            pytest.fail(f"{key}: {response.status_code}")

        wait_for("old-key", 200)
        keys.write_text("old-key\nnew-key\n")  # both, until every caller has the new one
        wait_for("new-key", 200)
        keys.write_text("new-key\n")
        wait_for("old-key", 401)
        keys.write_bytes(b"\xff\xfe")  # what can't be read changes nothing
        wait_for("new-key", 200)
        keys.write_text("")  # no key left is nobody let in, not everybody
        wait_for("new-key", 401)
        wait_for("adm", 200)


def test_keys_are_not_told_by_settings(tiny_master: Path, store_url: str) -> None:
    settings = make_settings(tiny_master, store_url, admin_keys="secret-key")
    assert "secret-key" not in repr(settings)
