"""From the running service's logs to a dataset folder and a report, without anything invented.

All of it from one server and from a cluster of three.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from app_client import make_settings, serve
from experiment_apps import HISTORY, SECOND, assignments, definition, put, wait_until
from redis import Redis
from starlette.testclient import TestClient

from analysis.__main__ import main
from analysis.log_export import STATE_FILE, connect, export_log
from faults.store_cluster import StoreCluster
from lsvcr.errors import DataError
from service.embedded_store import EmbeddedStore
from service.experiments import report_process
from training.dataset_folder import load_dataset

ARMS = [
    {"name": "control", "weight": 0.5},
    {"name": "treatment", "weight": 0.5},
    {"name": "new", "model_version": SECOND, "shadow": True},
]
USERS = [f"u{number}" for number in range(12)]
AT_MS = 1_700_000_000_000


@contextlib.contextmanager
def store(kind: str, folder: Path) -> Iterator[str]:
    if kind == "server":
        with EmbeddedStore(folder) as embedded:
            yield embedded.url
        return
    cluster = StoreCluster(folder)
    try:
        cluster.start()
        yield cluster.url
    finally:
        cluster.stop()


@pytest.fixture(scope="module", params=["server", "cluster"])
def store_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with store(request.param, tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture(scope="module")
def shown(tiny_master: Path, store_url: str) -> dict[str, Any]:
    """Answers by user, of a service that was asked, told what came of it, and stopped again."""
    with serve(make_settings(tiny_master, store_url)) as client:
        put(client, definition(arms=ARMS, forced={"u3": "treatment"}, seed="log"))
        answers = {user: ask(client, user) for user in USERS}
        arms = {user: assignments(client, user)["x"][0] for user in USERS}
        for user, answer in answers.items():
            assert answer["model"]["arm"] == arms[user]
        client.post("/recommend/videos", json={"history": HISTORY, "k": 1})  # of nobody
        send(client, answers)
        wait_until(lambda: shadows(client) == len(USERS), "all shadow arms have answered")
    return answers


def ask(client: TestClient, user: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/recommend/feed", json={"user_id": user, "k": 2}).json()
    return answer


def send(client: TestClient, answers: dict[str, dict[str, Any]], at_ms: int = AT_MS) -> None:
    events = [
        {
            "event_id": f"{kind}-{user}",
            "user_id": user,
            "type": kind,
            "timestamp": at_ms,
            "recommendation_id": answer["recommendation_id"],
            **more,
        }
        for user, answer in answers.items()
        for kind, more in (
            (
                "video_watch",
                {"video_id": answer["items"][0]["video_id"], "watch_time_ms": watch_ms(user)},
            ),
            ("comment_view", {"comment_id": "c5", "watch_time_ms": 70}),
            ("video_like", {"video_id": "unheard-of"}),
        )
    ]
    result = client.post("/events", json={"events": events}).json()
    assert result == {"accepted": len(events), "duplicates": 0, "rejected": []}


def watch_ms(user: str) -> int:
    return 900 + int(user.removeprefix("u"))


def shadows(client: TestClient) -> int:
    lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith('lsvcr_shadow_answers_total{outcome="done"')]
    return int(float(found[0].split()[-1])) if found else 0


def read(folder: Path, table: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{table}.parquet")


def test_everything_that_was_shown_and_done_is_exported_once(
    store_url: str, shown: dict[str, Any], tmp_path: Path
) -> None:
    with connect(store_url) as redis:
        done = export_log(redis, tmp_path)
        assert (done.lost, done.left_out) == (0, 0)
        exposures = read(tmp_path, "exposures")
        assert len(exposures) == len(USERS) + 1
        assert exposures["experiment"].null_count() == 1
        rows = {row["user_id"]: row for row in exposures.iter_rows(named=True) if row["user_id"]}
        for user, answer in shown.items():
            row, items = rows[user], answer["items"]
            assert row["recommendation_id"] == answer["recommendation_id"]
            assert (row["experiment"], row["arm"]) == ("x", answer["model"]["arm"])
            assert row["reason"] == ("forced" if user == "u3" else "bucket")
            assert row["video_ids"] == [item["video_id"] for item in items]
            assert row["comment_ids"] == [
                comment["comment_id"] for item in items for comment in item["comments"]
            ]
        assert len(read(tmp_path, "shadow_exposures")) == len(USERS)
        videos = read(tmp_path, "video_events")
        assert sorted(videos["event_id"]) == sorted(
            f"{kind}-{user}" for user in USERS for kind in ("video_watch", "video_like")
        )
        assert videos["watch_time_ms"].sum() == sum(map(watch_ms, USERS))
        assert read(tmp_path, "comment_events")["type"].unique().to_list() == ["comment_view"]

        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert set(export_log(redis, tmp_path).added.values()) == {0}
        (tmp_path / STATE_FILE).unlink()  # as after a crash: all is read again
        assert set(export_log(redis, tmp_path).added.values()) == {0}
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_dataset_folder_goes_on_where_the_export_ends(
    store_url: str, shown: dict[str, Any], tmp_path: Path
) -> None:
    base, folder = tmp_path / "base", tmp_path / "next"
    base.mkdir()
    pl.DataFrame(
        {"video_id": [f"v{n}" for n in range(1, 51)], "title": ["words"] * 50}
    ).write_parquet(base / "videos.parquet")
    pl.DataFrame({"comment_id": ["c5"], "video_id": ["v1"], "text": ["well"]}).write_parquet(
        base / "comments.parquet"
    )
    pl.DataFrame(
        {"user_id": ["u0", "u0"], "video_id": ["v1", "v1"], "timestamp": [AT_MS - 5] * 2}
    ).write_parquet(base / "video_events.parquet")
    with connect(store_url) as redis:
        done = export_log(redis, folder, base=base)
        assert done.left_out == len(USERS)  # the videos that nobody has heard of
        assert set(export_log(redis, folder, base=base).added.values()) == {0}
    dataset = load_dataset(folder)
    assert len(dataset.video_events) == 2 + len(USERS)
    assert len(dataset.comment_events) == len(USERS)
    command = [sys.executable, "-m", "training", "data", "check", str(folder)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    with connect(store_url) as redis, pytest.raises(DataError, match="videos"):
        export_log(redis, tmp_path / "other", base=tmp_path / "nowhere")


def test_what_the_store_dropped_before_it_was_read_is_told(
    store_folder: Path, tmp_path: Path
) -> None:
    entry = {"event_id": "e", "user_id": "u", "type": "video_like", "timestamp": 1, "video_id": "v"}
    with EmbeddedStore(store_folder) as embedded, Redis.from_url(embedded.url, protocol=2) as redis:

        def add(count: int) -> None:
            for number in range(count):
                raw = json.dumps({**entry, "event_id": f"{redis.xlen('lsvcr:events:0')}-{number}"})
                redis.xadd("lsvcr:events:0", {"event": raw})

        add(3)
        assert export_log(redis, tmp_path).added["video_events"] == 3
        add(5)
        redis.xtrim("lsvcr:events:0", maxlen=2, approximate=False)
        done = export_log(redis, tmp_path)
        assert (done.added["video_events"], done.lost) == (2, 3)
        since = redis.time()[0] * 1000 + 60_000
        assert export_log(redis, tmp_path / "later", since_ms=since).added["video_events"] == 0


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--redis", f"unix://{tmp_path}/nobody.sock", "--out", str(tmp_path)]
    assert main(arguments) == 1
    assert "the store cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--since", "yesterday"])
    for url, reason in (("redis+cluster://127.0.0.1:1", "cluster"), ("nonsense", "scheme")):
        assert main(["export", "--redis", url, "--out", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert "the store cannot be read" in said
        assert reason in said.lower()


@pytest.mark.parametrize("kind", ["server", "cluster"])
def test_the_report_is_made_of_what_was_shown_and_done(
    tiny_master: Path, store_folder: Path, kind: str
) -> None:
    with (
        store(kind, store_folder) as url,
        serve(make_settings(tiny_master, url)) as client,
    ):
        put(client, definition(arms=ARMS, primary_metric="video_watch_time_ms"))
        nothing = client.get("/admin/experiments/x/report")
        assert nothing.status_code == 409
        assert nothing.json()["detail"] == "no exposures of experiment 'x'"
        answers = {user: ask(client, user) for user in map(str, range(70))}
        send(client, answers, at_ms=time.time_ns() // 1_000_000)
        arms = [answer["model"]["arm"] for answer in answers.values()]
        response = client.get("/admin/experiments/x/report", params={"planned_units": 70})
        assert response.status_code == 200, response.text
        report = response.json()
        assert report["plan"]["planned_units"] == 70
        assert {one["arm"]: one["units"] for one in report["arms"]} == {
            arm: arms.count(arm) for arm in ("control", "treatment")
        }
        [watched] = [one for one in report["outcomes"] if one["metric"] == "video_watch_time_ms"]
        for arm, mean in (("control", "control_mean"), ("treatment", "arm_mean")):
            own = [watch_ms(user) for user, one in zip(answers, arms, strict=True) if one == arm]
            assert watched[mean] == pytest.approx(sum(own) / len(own))
        page = client.get("/admin/experiments/x/report", headers={"Accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        assert "<svg" in page.text
        wrong = client.get("/admin/experiments/x/report", params={"pre_days": -1})
        assert wrong.status_code == 422
        assert client.get("/admin/experiments/y/report").status_code == 404


def test_without_the_analysis_extra_a_report_is_refused_clearly(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, definition("bare", status="draft"))
    monkeypatch.setattr(report_process, "_LIBRARIES", ("analysis", "never_installed"))
    refused = client.get("/admin/experiments/bare/report")
    assert refused.status_code == 501
    assert "lsvcr[analysis]" in refused.json()["detail"]
    client.delete("/admin/experiments/bare")
