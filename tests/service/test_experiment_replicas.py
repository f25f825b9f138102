"""Experiments on two replicas of the service, and on a store that goes away."""

import json
import os
import shutil
import signal
from pathlib import Path

from app_client import make_settings, serve
from experiment_apps import FIRST, SECOND, assignments, definition, put, recommend, wait_until
from redis import Redis
from starlette.testclient import TestClient

from service.embedded_store import EmbeddedStore

RECORDS = "lsvcr:{experiments}:records"


def in_effect(client: TestClient, name: str = "x") -> bool:
    return bool(client.get(f"/admin/experiments/{name}").json().get("in_effect"))


def test_replicas_agree_and_a_stop_reaches_all_of_them(
    tiny_master: Path, store_folder: Path
) -> None:
    with EmbeddedStore(store_folder) as embedded:
        settings = make_settings(tiny_master, embedded.url)
        with serve(settings) as one, serve(settings) as other:
            put(one, definition())
            wait_until(lambda: in_effect(other), "the other replica has warmed the bundles up")
            units = [*map(str, range(60))]
            arms = {unit: assignments(one, unit)["x"][0] for unit in units}
            assert set(arms.values()) == {"control", "treatment"}
            for unit, arm in arms.items():
                assert assignments(other, unit)["x"][0] == arm
                version = {"control": FIRST, "treatment": SECOND}[str(arm)]
                assert recommend(other, unit).headers["X-Model-Version"] == version
            other.post("/admin/experiments/x/stop")
            wait_until(lambda: assignments(one, "0")["x"][1] == "stopped", "the stop arrives")
            assert {recommend(one, unit).headers["X-Arm"] for unit in units} == {"control"}
        with serve(settings) as restarted:
            assert assignments(restarted, "0")["x"] == ("control", "stopped")
            put(restarted, definition())
            assert {unit: assignments(restarted, unit)["x"][0] for unit in units} == arms


def test_what_is_known_stays_when_the_store_is_lost_wiped_or_holds_nonsense(
    tiny_master: Path, store_folder: Path
) -> None:
    with EmbeddedStore(store_folder) as embedded:
        settings = make_settings(tiny_master, embedded.url, store_timeout_ms=200)
        with serve(settings) as client, serve(settings) as other:
            put(client, definition())
            arm = assignments(client, "u")["x"]
            redis = Redis.from_url(embedded.url)
            record = json.loads(redis.hget(RECORDS, "x"))  # type: ignore[arg-type]
            record["definition"]["control"] = "nobody"
            redis.hset(RECORDS, "x", json.dumps(record))
            put(other, definition("y", arms=[{"name": "a", "weight": 1.0}], control="a"))
            wait_until(lambda: "y" in assignments(client, "u"), "the new one arrives")
            assert assignments(client, "u")["x"] == arm  # as it was known before
            redis.flushall()
            redis.close()
            put(other, definition("y", arms=[{"name": "a", "weight": 1.0}], control="a"))
            wait_until(lambda: "x" not in assignments(client, "u"), "the new definitions arrive")
            put(client, definition())
            assert embedded.pid is not None
            os.kill(embedded.pid, signal.SIGKILL)
            version = {"control": FIRST, "treatment": SECOND}[str(arm[0])]
            assert recommend(client, "u").headers["X-Model-Version"] == version
            assert client.put("/admin/experiments/z", json=definition("z")).status_code in (
                409,
                503,
            )
            assert client.post("/admin/experiments/x/stop").status_code == 503
            assert assignments(client, "u")["x"] == arm


def test_a_replica_without_an_arms_bundle_waits_and_says_so_and_stops_all_the_same(
    tiny_master: Path, tiny_registry: Path, store_folder: Path
) -> None:
    shutil.rmtree(tiny_registry / SECOND)
    with EmbeddedStore(store_folder) as embedded:
        complete, lacking = (
            make_settings(registry, embedded.url) for registry in (tiny_master, tiny_registry)
        )
        with serve(complete) as one, serve(lacking) as other:
            put(one, definition())
            put(one, definition("aa", arms=[{"name": "a", "weight": 1.0}], control="a"))
            wait_until(lambda: in_effect(other, "aa"), "the other replica knows the newer one")
            assert not in_effect(other)
            assert assignments(other, "u") == {"aa": ("a", "bucket")}
            assert recommend(other, "u").headers["X-Model-Version"] == FIRST
            assert 'lsvcr_experiments{state="waiting"} 1.0' in other.get("/metrics").text
            one.post("/admin/experiments/x/stop")
            wait_until(lambda: "x" in assignments(other, "u"), "the stop arrives")
            assert assignments(other, "u")["x"] == ("control", "stopped")
            assert 'lsvcr_experiments{state="waiting"} 0.0' in other.get("/metrics").text
