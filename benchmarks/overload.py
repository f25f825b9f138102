"""What becomes of requests when more come than can be answered.

First the peak, by a closed loop; then an open loop at multiples of it, with the service's own
deadline: how many are still answered, and how fast the rest is refused. Each rate is also offered
to an app that only refuses: what that takes, and the load's generator where it has no cores of its
own (`--service-cores`), is lost for answers behind any framework, and `possible_of_peak` is what
would be left.
"""

import argparse
import contextlib
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.http import load
from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.load_generator import Load, offer
from benchmarks.results_file import write_results
from benchmarks.service_process import (
    Cores,
    add_cores_argument,
    cpu_s_of,
    fill_store,
    running_app,
    running_service,
)

DEADLINE_MS = 1000
"""The service's default. Time in sockets that it hasn't read yet counts here, not there."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--workers", type=int, default=2)
    add_cores_argument(parser)
    parser.add_argument("--generators", type=int, default=1)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument(
        "--rounds", type=int, default=3, help="of the closed loop, before and after"
    )
    parser.add_argument("--factors", type=float, nargs="*", default=[0.8, 1.5, 5.0])
    args = parser.parse_args()
    args.path = "videos"
    registry = large_registry_of(args.work, args.videos, args.comments)
    cores = Cores(args.service_cores)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with cores.for_service():
            running = running_service(
                registry, folder, workers=args.workers, arguments=["--device", args.device]
            )
            port = stack.enter_context(running)
        fill_store(port, registry)
        closed = [offer(port, load(args, 0, seed=seed)) for seed in range(args.rounds + 1)][1:]
        peak = statistics.median(seen.goodput_per_s for seen in closed)
        runs = [offer(port, load(args, factor * peak)) for factor in args.factors]
        closed += [offer(port, load(args, 0, seed=seed)) for seed in range(args.rounds)]
        peak = statistics.median(seen.goodput_per_s for seen in closed)
    with contextlib.ExitStack() as stack:
        with cores.for_service():
            port = stack.enter_context(running_app("refusing", workers=args.workers))
        refusing = [refuse(port, load(args, factor * peak)) for factor in args.factors]
    print(f"peak {peak:,.0f} requests/s")
    shared = 0 if args.service_cores else 1  # of what the generators take
    generating = shared * statistics.median(seen.cpu_s for seen in closed) / args.seconds
    rows = []
    for factor, seen, refused in zip(args.factors, runs, refusing, strict=True):
        in_time = seen.in_time_per_s(DEADLINE_MS) / peak
        rejected = float(np.mean(seen.status_N == 503))
        lost = shared * refused.generator_cores + refused.server_cores * rejected
        possible = min(1.0, (len(cores.service) - lost) / (len(cores.service) - generating))
        row = {
            "offered_of_peak": factor,
            "in_time_of_peak": round(in_time, 3),
            "possible_of_peak": round(possible, 3),
            "refused_by_bare_app": asdict(refused),
        }
        rows.append({**row, **seen.describe()})
        print(rows[-1])
    settings = {name: getattr(args, name) for name in ("videos", "workers", "service_cores")}
    write_results(args.out, {**settings, "peak_per_s": round(peak), "runs": rows})


@dataclass(frozen=True, slots=True)
class Refusing:
    """What a load costs that is refused at once; cores are seconds of processor time a second."""

    generator_cores: float
    server_cores: float
    p50_ms: float
    p99_ms: float


def refuse(port: int, load: Load) -> Refusing:
    """Offer a load to an app that refuses all of it."""
    before_s = cpu_s_of(port)
    seen = offer(port, load)
    cores = (seen.cpu_s / load.seconds, (cpu_s_of(port) - before_s) / load.seconds)
    latencies_ms = np.percentile(seen.latency_ms_N, [50, 99])
    return Refusing(*(round(float(value), 3) for value in (*cores, *latencies_ms)))


if __name__ == "__main__":
    main()
