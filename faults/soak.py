"""`python -m faults.soak`: a steady load, a new model every minute, users turning over.

The load is a part of what this machine answers at most, generator and store included. Memory, file
descriptors and latency are looked at all the while, and judged by the goals; the exit status is 1
where one was missed.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_file import write_results
from faults.load import Load, Record
from faults.open_descriptors import Descriptors, count_descriptors
from faults.world import World, running_world
from service.app import EXPERIMENT_CONNECTIONS
from service.history_store import MAX_CONNECTIONS
from tests.tiny_bundle_builder import TINY_VERSIONS

LOOK_S = 5.0
WARM_UP = 0.25
"""Of the whole time: until then caches and pools fill."""
EVENTS_SHARE = 0.25
"""Events among all requests."""
USERS_STAY_S = 120.0
AT_ONCE = 32
CAPACITY_S = 10.0
"""How long it is tried what can be answered at most."""

MOST_MEMORY_PERCENT_PER_HOUR = 1.0
MOST_TO_STORE = MAX_CONNECTIONS + EXPERIMENT_CONNECTIONS
MOST_CALLERS = 2 * AT_ONCE
"""The load's connections, that of the activations, and those that have just ended."""
WINDOW_S = 30.0
"""The p99 of so long is one value; of a half's values the median counts, as others' work comes and
goes."""
MOST_P99_RATIO, NOISE_MS = 1.25, 5.0
LEAST_MINUTES = 20
"""In less time memory's slope can't be told from noise."""


@dataclass(frozen=True)
class Look:
    """What a process held at a time."""

    at_s: float
    resident_bytes: int
    descriptors: Descriptors


def main(arguments: Sequence[str]) -> int:
    """Run for some minutes, print what was found, and judge it."""
    parser = argparse.ArgumentParser(prog="python -m faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--share", type=float, default=0.6, help="of what can be answered at most")
    parser.add_argument("--reload-s", type=float, default=60)
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args(arguments)
    gc.disable()  # in what is kept of each request it finds nothing, and nothing is sent meanwhile
    with (
        tempfile.TemporaryDirectory(prefix="lsvcr-soak-") as folder,
        running_world(Path(folder), replicas=1) as world,
    ):
        trying = Load(world.ports, asks_per_s=0, events_per_s=0, tag="try")
        most_per_s = trying.measure_capacity(CAPACITY_S, events_share=EVENTS_SHARE)
        world.asks_per_s = options.share * (1 - EVENTS_SHARE) * most_per_s
        world.events_per_s = options.share * EVENTS_SHARE * most_per_s
        world.users_stay_s, world.asks_at_once = USERS_STAY_S, AT_ONCE
        found = {"most_per_s": round(most_per_s), "share": options.share}
        found |= _soak(world, options.minutes * 60, options.reload_s)
    missed = judge(found)
    found["goals_missed"] = missed
    for name, value in found.items():
        print(f"{name:28} {value}")
    write_results(options.out, {"date": datetime.now(UTC).isoformat(timespec="seconds"), **found})
    return 1 if missed else 0


def judge(found: dict[str, Any]) -> list[str]:
    """Name the goals that were missed; empty is good."""
    first_ms, second_ms = found["p99_of_30_s_ms"]
    slope = found["memory_percent_per_hour"]
    warm, last, _ = found["descriptors"]["others"]
    callers, to_store = found["descriptors"]["callers"][2], found["descriptors"]["to_store"][2]
    goals = {
        f"memory grows by {slope} % an hour": slope < MOST_MEMORY_PERCENT_PER_HOUR
        or found["minutes"] < LEAST_MINUTES,
        f"{last - warm} more descriptors": last <= warm,
        f"{callers} connections of callers": callers <= MOST_CALLERS,
        f"{to_store} connections to the store": to_store <= MOST_TO_STORE,
        f"p99 went from {first_ms} to {second_ms} ms": second_ms
        <= max(MOST_P99_RATIO * first_ms, first_ms + NOISE_MS),
        f"{found['not_answered_well']} not answered well": found["not_answered_well"] == 0,
        f"{found['events_lost']} accepted events lost": found["events_lost"] == 0,
    }
    return [missed for missed, is_met in goals.items() if not is_met]


def _soak(world: World, seconds: float, reload_s: float) -> dict[str, Any]:
    looks: list[Look] = []
    reloads = 0
    with world.load("soak") as load:
        began_s = time.monotonic()
        while (now_s := time.monotonic() - began_s) < seconds:
            looks.append(_look(world, now_s))
            if now_s >= (reloads + 1) * reload_s:
                reloads += 1
                version = TINY_VERSIONS[reloads % 2]
                world.replicas[0].call("POST", f"/admin/models/{version}/activate")
            time.sleep(LOOK_S)
    accepted = load.record.accepted
    return {
        "minutes": round(seconds / 60, 1),
        "reloads": reloads,
        **measure_growth(looks, seconds),
        **_latency(load.record, began_s, seconds),
        "events_accepted": len(accepted),
        "events_lost": len(accepted - world.store.logged_event_ids()),
    }


def _look(world: World, at_s: float) -> Look:
    replica = world.replicas[0]
    pages = int(Path(f"/proc/{replica.pid}/statm").read_text().split()[1])
    descriptors = count_descriptors(replica.pid, port=replica.port, store_port=world.proxy.port)
    return Look(at_s, pages * 4096, descriptors)


def measure_growth(looks: Sequence[Look], seconds: float) -> dict[str, Any]:
    """Memory by a line through all looks after warm-up; descriptors by the fewest of a third.

    Connections come and go with the load's bursts, up to a bound that is known; files are open
    twice while a bundle replaces another. What leaks is there also between these.

    Returns:
        `descriptors` by kind: the fewest in the first and in the last third, and the most of all.
    """
    warm = [one for one in looks if one.at_s > seconds * WARM_UP]
    bytes_N = np.array([one.resident_bytes for one in warm], float)
    slope = np.polyfit([one.at_s for one in warm], bytes_N, 1)[0] * 3600
    third = len(warm) // 3
    return {
        "memory_mb_first": round(looks[0].resident_bytes / 1e6, 1),
        "memory_mb_warm": round(bytes_N[0] / 1e6, 1),
        "memory_mb_last": round(bytes_N[-1] / 1e6, 1),
        "memory_percent_per_hour": round(100 * slope / bytes_N.mean(), 2),
        "descriptors": {
            kind: (
                min(getattr(one.descriptors, kind) for one in warm[:third]),
                min(getattr(one.descriptors, kind) for one in warm[-third:]),
                max(getattr(one.descriptors, kind) for one in looks),
            )
            for kind in Descriptors._fields
        },
    }


def _latency(record: Record, began_s: float, seconds: float) -> dict[str, Any]:
    at_s_N = np.array([one.due_s - began_s for one in record.asked])
    latency_ms_N = np.array([one.seconds * 1000 for one in record.asked])
    return {
        "requests": len(record.asked),
        "not_answered_well": sum(one.status != 200 for one in record.asked),
        "degraded": sum(bool(one.degraded) for one in record.asked),
        **summarise_halves(at_s_N, latency_ms_N, seconds),
    }


def summarise_halves(
    at_s_N: NDArray[np.float64], latency_ms_N: NDArray[np.float64], seconds: float
) -> dict[str, Any]:
    """Latency in each half of the time after warm-up.

    Returns:
        `p50_p99_ms_*_half` of all requests, and `p99_of_30_s_ms`: a half's median of the p99 of
        each `WINDOW_S`.
    """
    found: dict[str, Any] = {"p99_of_30_s_ms": []}
    edges_s = np.linspace(seconds * WARM_UP, seconds, 3)
    for name, begins_s, ends_s in zip(("first", "second"), edges_s, edges_s[1:], strict=False):
        is_in_N = (at_s_N > begins_s) & (at_s_N <= ends_s)
        half_ms = latency_ms_N[is_in_N]
        window_N = ((at_s_N[is_in_N] - begins_s) // WINDOW_S).astype(int)
        p99s_ms = [np.percentile(half_ms[window_N == one], 99) for one in np.unique(window_N)]
        found[f"p50_p99_ms_{name}_half"] = np.percentile(half_ms, (50, 99)).round(1).tolist()
        found["p99_of_30_s_ms"].append(round(float(np.median(p99s_ms)), 1))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
