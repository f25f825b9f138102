"""Several worker processes, as an operator runs them: a scrape of any tells of all."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

PATIENCE_S = 60.0
PORT = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Service(NamedTuple):
    pid: int
    port: int


@pytest.fixture(scope="module")
def service(
    tiny_master: Path, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service of two workers."""
    command = [sys.executable, "-m", "service", "--registry", str(tiny_master), "--workers", "2"]
    command += ["--redis", store_url, "--port", "0", "--device", "cpu", "--max-queue", "7"]
    log = tmp_path_factory.mktemp("workers") / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ) as process,
    ):
        try:
            wait_for(lambda: PORT.search(log.read_text()) is not None)
            port = int(PORT.findall(log.read_text())[0])
            wait_for(lambda: is_ready(port))
            yield Service(process.pid, port)
        finally:
            process.terminate()


def is_ready(port: int) -> bool:
    try:
        return json.loads(fetch(port, "/health/ready"))["status"] == "ready"
    except ConnectionError:  # nobody listens yet
        return False


def fetch(port: int, path: str, body: object = None) -> str:
    """Ask on a connection of its own: the kernel picks the worker."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body and json.dumps(body))
        return connection.getresponse().read().decode()


def scrape(port: int) -> Samples:
    families = text_string_to_metric_families(fetch(port, "/metrics"))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def sample(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def wait_for(is_so: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.05)


def recommended(port: int) -> float:
    route = {"route": "/recommend/videos", "status": "200"}
    return sample(scrape(port), "lsvcr_requests_total", **route)


def test_every_scrape_sums_up_all_workers(service: Service) -> None:
    port = service.port
    for _ in range(40):
        assert "items" in fetch(port, "/recommend/videos", {"history": {}, "k": 3})
    wait_for(lambda: recommended(port) == 40)  # counted just after it is answered
    for _ in range(8):  # whichever worker is asked
        assert recommended(port) == 40
    samples = scrape(port)
    assert sample(samples, "lsvcr_request_duration_seconds_count", route="/recommend/videos") == 40
    assert sample(samples, "lsvcr_items_shown_total", kind="video", arm="none") == 120
    wait_for(lambda: sample(scrape(port), "lsvcr_queue_limit") == 14)  # both have started
    assert sample(scrape(port), "lsvcr_model_ready") == 1


def test_a_worker_that_died_stays_counted_but_has_no_state(service: Service) -> None:
    before = recommended(service.port)
    died = workers(service.pid)[0]
    os.kill(died, signal.SIGKILL)
    wait_for(lambda: len(workers(service.pid)) == 2 and died not in workers(service.pid))
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
