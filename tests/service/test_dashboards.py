"""Dashboards and alerts ask for what the service tells, and a real Prometheus understands them."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from running_service import PATIENCE_S, fetch, running, send, wait_for

FOLDER = Path(__file__).parents[2] / "docker" / "observability"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}
NEEDS_PROMETHEUS = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs Debian's package prometheus"
)


def dashboard_queries() -> list[str]:
    return [
        target["expr"]
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def port(tiny_master: Path, store_url: str) -> Iterator[int]:
    """A real service that has been asked a bit of everything."""
    with running(tiny_master, store_url) as service:
        use(service.port)
        yield service.port


def use(port: int) -> None:
    for number in range(5):
        answer = send(port, "/recommend/feed", {"user_id": f"dashboard-{number}", "k": 3})
        for kind in ("video_watch", "comment_view"):
            event = {
                "event_id": f"{kind}-{number}",
                "user_id": f"dashboard-{number}",
                "type": kind,
                "timestamp": 1_000,
                "watch_time_ms": 2_000,
                "recommendation_id": answer["recommendation_id"],
            }
            item = "video_id" if kind == "video_watch" else "comment_id"
            send(port, "/events", {"events": [event | {item: f"{item[0]}1"}]})
        send(port, "/recommend/videos", {"user_id": f"dashboard-{number}", "k": 3})
    fetch(port, "/no/such/path")


def test_all_that_is_asked_for_is_told(port: int) -> None:
    queries = dashboard_queries() + [rule["expr"] for rule in alert_rules()]
    asked = {name for query in queries for name in re.findall(r"\blsvcr_\w+", query)}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    told = set(re.findall(r"^(lsvcr_\w+)", text, re.M)) | set(re.findall(r"# TYPE (\S+)", text))
    assert len(asked) > 20
    assert asked - told == set()


def test_panels_lie_beside_one_another_and_name_their_source() -> None:
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
            assert panel["datasource"]["uid"] == "prometheus"
            assert panel["description"]
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    tested = [case for test in cases for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in tested if case.get("exp_alerts")}
    silent = {case["alertname"] for case in tested if not case.get("exp_alerts")}
    names = {rule["alert"] for rule in alert_rules()}
    assert firing == names
    assert silent == names


def test_the_runbook_says_what_to_do_about_every_alert() -> None:
    text = (FOLDER.parents[1] / "docs" / "operations" / "runbook.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.M)
    known = [name for heading in headings for name in heading.split(", ")]
    assert sorted(known) == sorted(rule["alert"] for rule in alert_rules())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")
def test_alerts_fire_when_they_should() -> None:
    subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=FOLDER,
        check=True,
        capture_output=True,
    )
    ran = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"], cwd=FOLDER, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@contextlib.contextmanager
def prometheus(target: int, folder: Path) -> Iterator[str]:
    """A server that scrapes the service each second; yields its address."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "alerts.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{target}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0"]
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, stderr=output, env={**os.environ, "GOMAXPROCS": "1"}) as process,
    ):
        try:
            wait_for(lambda: "Listening on" in log.read_text())
            listening = re.search(r"Listening on.*address=127\.0\.0\.1:(\d+)", log.read_text())
            assert listening is not None
            yield f"http://127.0.0.1:{listening[1]}"
        finally:
            process.terminate()


def ask(address: str, query: str) -> list[dict[str, Any]]:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
        content = json.load(response)
    assert content["status"] == "success"
    result: list[dict[str, Any]] = content["data"]["result"]
    return result


@NEEDS_PROMETHEUS
def test_a_real_prometheus_answers_every_dashboard(port: int, tmp_path: Path) -> None:
    with prometheus(port, tmp_path) as address:
        watched = 'lsvcr_feedback_watch_seconds_total{kind="comment"}'
        wait_for(lambda: bool(ask(address, watched)))
        assert ask(address, watched)[0]["value"][1] == "10"
        before = float(ask(address, "sum(lsvcr_requests_total)")[0]["value"][1])
        use(port)
        wait_for(lambda: float(ask(address, "sum(lsvcr_requests_total)")[0]["value"][1]) > before)
        empty = [query for query in dashboard_queries() if not ask(address, query)]
        # a day ago there was nothing, and nothing has failed
        assert [query for query in empty if "offset 1d" not in query] == []
        with urllib.request.urlopen(f"{address}/api/v1/rules") as response:
            groups = json.load(response)["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) == len(alert_rules())
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert [rule["lastError"] for rule in rules if "lastError" in rule] == []
