"""What counters say of the recommendations' worth, on a running application."""

from pathlib import Path

import pytest
from app_client import make_settings, serve
from experiment_apps import definition, put, recommend, units_of
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.embedded_store import EmbeddedStore
from service.engine.queries import Answer, RankedVideo
from service.event_log import Event
from service.quality_metrics import DistinctCount, QualityMetrics


def counted(client: TestClient, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [one for family in families for one in family.samples if one.name == name]
    return sum(one.value for one in samples if labels.items() <= one.labels.items())


def test_what_is_shown_and_what_comes_of_it_is_counted_by_arm(
    tiny_master: Path, tmp_path: Path
) -> None:
    with EmbeddedStore(tmp_path) as store, serve(make_settings(tiny_master, store.url)) as client:
        put(client, definition())
        for arm in ("control", "treatment"):
            user = units_of(client, "x", arm, 1)[0]
            answer = recommend(client, user).json()
            assert answer["model"]["arm"] == arm
            watched = {"user_id": user, "type": "video_watch", "video_id": "v3", "timestamp": 1_000}
            told = {"recommendation_id": answer["recommendation_id"], "watch_time_ms": 2_500}
            events = [
                {**watched, **told, "event_id": f"{arm}-told"},
                {**watched, "event_id": f"{arm}-by-itself"},
            ]
            sent = client.post("/events", json={"events": events[: 2 if arm == "control" else 1]})
            assert sent.status_code == 200
        for arm in ("x/control", "x/treatment"):
            assert counted(client, "lsvcr_items_shown_total", arm=arm, kind="video") == 5
            assert counted(client, "lsvcr_feedback_events_total", arm=arm) == 1
            watch = counted(client, "lsvcr_feedback_watch_seconds_total", arm=arm, kind="video")
            assert watch == 2.5
        assert counted(client, "lsvcr_videos_shown_by_popularity_total") == 10
        assert counted(client, "lsvcr_top_score_count", kind="videos") == 2


def test_events_on_items_that_the_model_does_not_know_are_told(client: TestClient) -> None:
    before = counted(client, "lsvcr_history_events_total", outcome="ignored")
    history = {"videos": [{"video_id": name, "timestamp": 1} for name in ("v1", "new", "newer")]}
    client.post("/recommend/videos", json={"history": history})
    assert counted(client, "lsvcr_history_events_total", outcome="ignored") == before + 2


def test_coverage_is_that_of_the_last_full_hour() -> None:
    now_s = [3600.0 * 10]
    registry = CollectorRegistry()
    quality = QualityMetrics(registry, clock=lambda: now_s[0])

    def show(*video_ids: str) -> None:
        items = tuple(RankedVideo(name, 1, 1.0, "") for name in video_ids)
        shown = {"video_ids": video_ids, "popularity_deciles": (1,) * len(items)}
        answer = Answer(items, "model", "m", (0, 0), 0, (), {}, 1, **shown)
        quality.record_answer("videos", answer)

    def covered() -> float | None:
        quality.settle()
        return registry.get_sample_value("lsvcr_videos_covered")

    show("a", "b", "c")
    show("b", "c", "d")
    assert covered() == 0
    now_s[0] += 3600
    assert covered() == 4
    show("a")
    assert covered() == 4
    now_s[0] += 3600
    assert covered() == 1


@pytest.mark.parametrize("distinct", [0, 1, 1_000, 50_000])
def test_distinct_strings_are_counted_within_a_percent(distinct: int) -> None:
    count = DistinctCount()
    for number in [*range(distinct), *range(distinct // 2)]:
        count.add([f"video-{number}"])
    assert count.estimate() == pytest.approx(distinct, rel=0.01, abs=1e-6)


def test_an_event_without_a_recommendation_asks_for_no_arm() -> None:
    def refuse(user_id: str) -> str:
        raise AssertionError(user_id)

    event = Event(event_id="e", user_id="u", type="video_watch", timestamp=1, video_id="v")
    QualityMetrics(CollectorRegistry()).record_feedback([event], refuse)


def test_the_index_is_checked_for_who_asked_last(tiny_master: Path, store_url: str) -> None:
    with serve(make_settings(tiny_master, store_url)) as client:
        reporter = client.app.state.reporter  # type: ignore[attr-defined]
        assert client.portal is not None
        name = "lsvcr_index_checked_videos_total"
        client.portal.call(reporter.check_recall)
        assert counted(client, name, outcome="found") == 50  # by what warmed it up
        recommend(client, None)
        for _ in range(2):  # the second time nobody has asked since
            client.portal.call(reporter.check_recall)
        assert counted(client, name, outcome="found") == 100
        assert counted(client, "lsvcr_index_checked_videos_total", outcome="missed") == 0
