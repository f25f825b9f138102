"""What was counted is told in pieces, and none of it is lost or told twice."""

import pytest
from prometheus_client import CollectorRegistry

from service.engine.queries import Answer, RankedVideo
from service.metrics import Metrics
from service.quality_metrics import QualityMetrics

ANSWERS, REQUESTS, TOGETHER = 23, 50, 10


def counted() -> tuple[Metrics, QualityMetrics, CollectorRegistry]:
    metrics, registry = Metrics(max_queue=1), CollectorRegistry()
    quality = QualityMetrics(registry)
    for number in range(REQUESTS):
        metrics.record_request("/recommend/videos", 200 if number % 3 else 503, 0.001 * number)
    for number in range(ANSWERS):
        video_ids = (f"video-{number}", f"video-{number % 7}")
        items = tuple(RankedVideo(name, 1, number / 2, "") for name in video_ids)
        shown = {"video_ids": video_ids, "popularity_deciles": (1 + number % 10, 1)}
        timings_ms = {"queue": 0.5 * number, "encode": 2.0}
        answer = Answer(items, "model", "m", (number, 1), 2, (), timings_ms, 1 + number, **shown)
        metrics.record_answer("videos", answer, degraded=("encoder",) * (number % 2), history_ms=1)
        quality.record_answer("videos", answer, arm="none" if number % 5 else "one/b")
    return metrics, quality, registry


def told(metrics: Metrics, registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """All samples, without those that tell when."""
    return {
        (sample.name, str(sample.labels)): sample.value
        for told_by in (metrics.registry, registry)
        for metric in told_by.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created") and "timestamp" not in sample.name
    }


def test_pieces_add_up_to_the_whole() -> None:
    whole, whole_quality, whole_registry = counted()
    assert not whole.settle()
    assert not whole_quality.settle()
    metrics, quality, registry = counted()
    assert [metrics.settle(TOGETHER) for _ in range(5)] == [True, True, True, True, False]
    assert [quality.settle(TOGETHER) for _ in range(3)] == [True, True, False]
    assert told(metrics, registry) == pytest.approx(told(whole, whole_registry))
    assert metrics.registry.get_sample_value(
        "lsvcr_requests_total", {"route": "/recommend/videos", "status": "503"}
    ) == len(range(0, REQUESTS, 3))
