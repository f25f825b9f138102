"""What experiments cost an answer, and how soon a stop reaches another replica."""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results_file import write_results
from benchmarks.service_process import ask, running_service
from service.embedded_store import EmbeddedStore
from service.experiments.assignment import assign_all
from service.experiments.decision import decide
from service.experiments.definition import Experiment
from service.exposure_log import ExposedTo, Exposure, ExposureLog
from service.store_connection import connect_store

ITEMS = 20
NAME = "kill"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", type=Path, default=Path(".demo/registry"))
    parser.add_argument("--stops", type=int, default=40)
    parser.add_argument("--exposures", type=int, default=20_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    args = parser.parse_args()
    found = {
        "decision_us": {str(count): decision_us(count) for count in (1, 5, 20)},
        "exposure_us": asyncio.run(exposure_us(args.exposures)),
        "stop_reaches_other_replica_ms": stops_ms(args.registry, args.stops),
    }
    print(json.dumps(found, indent=2))
    write_results(args.json, found)


def decision_us(experiments: int) -> float:
    """Processor time to find a unit's arms in so many running experiments, and join them."""
    arms = [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5}]
    known = {
        f"x{number}": Experiment.model_validate(
            {"name": f"x{number}", "arms": arms, "control": "a", "status": "running"}
        )
        for number in range(experiments)
    }
    rounds = 5_000 // experiments
    started_s = time.process_time()
    for number in range(rounds):
        decide(known, assign_all([*known.values()], f"user-{number}"))
    return round((time.process_time() - started_s) / rounds * 1e6, 1)


async def exposure_us(count: int) -> dict[str, float]:
    """Processor time of one exposure of 20 items: before the answer, and after it."""
    exposure = Exposure(
        recommendation_id="01M85KAMZ5762K7R66TGRS3TF2",
        timestamp=1_790_000_000_000,
        endpoint="videos",
        model_version="20261124T013819Z-df42",
        source="model",
        k=ITEMS,
        latency_ms=4.2,
        user_id="u00007",
        experiments=(ExposedTo("encoder-v2", "treatment", "bucket"),),
        video_ids=tuple(f"v{number:05}" for number in range(ITEMS)),
        scores=tuple(4.9215371 - number / 7 for number in range(ITEMS)),
        history_used=(50, 40),
    )
    with tempfile.TemporaryDirectory() as folder, EmbeddedStore(Path(folder)) as embedded:
        redis = connect_store(embedded.url, timeout_s=30.0, max_connections=4)
        log = ExposureLog(redis, timeout_s=30.0, max_entries=200_000)
        started_s = time.process_time()
        for _ in range(count):
            log.record(exposure)
        queued_s = time.process_time() - started_s
        await log.flush()
        written_s = time.process_time() - started_s - queued_s
        size = await redis.memory_usage("lsvcr:exposures:" + await _stream(redis))
        await redis.aclose(close_connection_pool=True)
    return {
        "queue": round(queued_s / count * 1e6, 2),
        "write_later": round(written_s / count * 1e6, 2),
        "bytes_in_store": round(size / count),
    }


async def _stream(redis: Any) -> str:
    [key] = [key async for key in redis.scan_iter(match="lsvcr:exposures:*")]
    return str(key.decode().rpartition(":")[2])


def stops_ms(registry: Path, count: int) -> dict[str, float]:
    """Time from asking one process for a stop until another one has it in effect."""
    times_ms = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedStore(Path(folder)) as embedded:
        shared = ["--redis", embedded.url, "--store-write-timeout-ms", "5000"]
        with (
            running_service(registry, Path(folder), workers=1, arguments=shared) as one,
            running_service(registry, Path(folder), workers=1, arguments=shared) as other,
        ):
            for _ in range(count):
                ask(one, "PUT", f"/admin/experiments/{NAME}", _definition())
                while _reason(other) != "bucket":
                    time.sleep(0.01)
                started_s = time.monotonic()
                ask(one, "POST", f"/admin/experiments/{NAME}/stop")
                while _reason(other) != "stopped":
                    time.sleep(0.005)
                times_ms.append((time.monotonic() - started_s) * 1000)
    return {
        "stops": count,
        "median": round(statistics.median(times_ms)),
        "largest": round(max(times_ms)),
    }


def _definition() -> dict[str, Any]:
    arms = [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5}]
    return {"name": NAME, "arms": arms, "control": "a", "status": "running"}


def _reason(port: int) -> str | None:
    found = ask(port, "GET", "/experiments/assignment?user_id=u")["assignments"]
    return str(found[0]["reason"]) if found else None
