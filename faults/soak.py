"""`python -m faults.soak`: a steady load, a new model every minute, users turning over.

Memory, file descriptors and latency are looked at all the while; what grows is told.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import write_results
from faults.load import Record
from faults.world import World, running_world
from tests.tiny_bundle_builder import TINY_VERSIONS

LOOK_S = 5.0
WARM_UP = 0.25
"""Of the whole time: until then caches and pools fill."""


def main(arguments: Sequence[str]) -> int:
    """Run for some minutes and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--asks-per-s", type=float, default=40)
    parser.add_argument("--reload-s", type=float, default=60)
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="lsvcr-soak-") as folder,
        running_world(Path(folder), replicas=1) as world,
    ):
        world.asks_per_s = options.asks_per_s
        found = _soak(world, options.minutes * 60, options.reload_s)
    for name, value in found.items():
        print(f"{name:28} {value}")
    write_results(options.out, {"date": datetime.now(UTC).isoformat(timespec="seconds"), **found})
    return 0


def _soak(world: World, seconds: float, reload_s: float) -> dict[str, Any]:
    looks: list[tuple[float, int, int]] = []
    reloads = 0
    with world.load("soak") as load:
        began_s = time.monotonic()
        while (now_s := time.monotonic() - began_s) < seconds:
            looks.append((now_s, *_look(world.replicas[0].pid)))
            if now_s >= (reloads + 1) * reload_s:
                reloads += 1
                version = TINY_VERSIONS[reloads % 2]
                world.replicas[0].call("POST", f"/admin/models/{version}/activate")
            time.sleep(LOOK_S)
    return {
        "minutes": round(seconds / 60, 1),
        "reloads": reloads,
        **_growth(looks, seconds),
        **_latency(load.record, began_s, seconds),
    }


def _look(pid: int) -> tuple[int, int]:
    """Resident bytes and open file descriptors of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _growth(looks: Sequence[tuple[float, int, int]], seconds: float) -> dict[str, Any]:
    at_N, bytes_N, files_N = (np.array(column, float) for column in zip(*looks, strict=True))
    warm_N = at_N > seconds * WARM_UP
    slope = np.polyfit(at_N[warm_N], bytes_N[warm_N], 1)[0] * 3600
    return {
        "memory_mb_first": round(bytes_N[0] / 1e6, 1),
        "memory_mb_warm": round(bytes_N[warm_N][0] / 1e6, 1),
        "memory_mb_last": round(bytes_N[-1] / 1e6, 1),
        "memory_percent_per_hour": round(100 * slope / bytes_N[warm_N].mean(), 2),
        "descriptors_warm": int(files_N[warm_N][0]),
        "descriptors_last": int(files_N[-1]),
        "descriptors_most": int(files_N.max()),
    }


def _latency(record: Record, began_s: float, seconds: float) -> dict[str, Any]:
    halves: tuple[list[float], list[float]] = ([], [])
    for one in record.asked:
        at_s = one.due_s - began_s
        if at_s > seconds * WARM_UP:
            halves[at_s > seconds * (1 + WARM_UP) / 2].append(one.seconds * 1000)
    percentiles = [np.percentile(half, (50, 99)).round(1).tolist() for half in halves]
    return {
        "requests": len(record.asked),
        "not_answered_well": sum(one.status != 200 for one in record.asked),
        "p50_p99_ms_first_half": percentiles[0],
        "p50_p99_ms_second_half": percentiles[1],
        "events_accepted": len(record.accepted),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
