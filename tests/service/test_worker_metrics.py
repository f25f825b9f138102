"""Several worker processes, as an operator runs them: a scrape of any tells of all."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_service import Service, fetch, running, send, wait_for

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def service(tiny_master: Path, store_url: str) -> Iterator[Service]:
    with running(tiny_master, store_url, "--workers", "2", "--max-queue", "7") as service:
        yield service


def scrape(port: int) -> Samples:
    families = text_string_to_metric_families(fetch(port, "/metrics"))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def sample(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def recommended(port: int) -> float:
    route = {"route": "/recommend/videos", "status": "200"}
    return sample(scrape(port), "lsvcr_requests_total", **route)


def test_every_scrape_sums_up_all_workers(service: Service) -> None:
    port = service.port
    for _ in range(40):
        assert "items" in send(port, "/recommend/videos", {"history": {}, "k": 3})
    wait_for(lambda: recommended(port) == 40)  # counted just after it is answered
    for _ in range(8):  # whichever worker is asked
        assert recommended(port) == 40
    samples = scrape(port)
    assert sample(samples, "lsvcr_request_duration_seconds_count", route="/recommend/videos") == 40
    assert sample(samples, "lsvcr_items_shown_total", kind="video", arm="none") == 120
    wait_for(lambda: sample(scrape(port), "lsvcr_queue_limit") == 14)  # both have started
    wait_for(lambda: sample(scrape(port), "lsvcr_model_ready") == 1)


def test_a_worker_that_died_stays_counted_but_has_no_state(service: Service) -> None:
    before = recommended(service.port)
    died = workers(service.pid)[0]
    os.kill(died, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{died}").exists())  # nor does it accept any more
    wait_for(lambda: len(workers(service.pid)) == 2)
    wait_for(lambda: sample(scrape(service.port), "lsvcr_queue_limit") == 14)
    assert recommended(service.port) == before


def workers(supervisor: int) -> list[int]:
    """Its children that serve, as Linux knows them."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
