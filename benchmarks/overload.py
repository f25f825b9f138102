"""What becomes of requests when more come than can be answered.

First the peak, by a closed loop; then an open loop at multiples of it, with the service's own
deadline: how many are still answered, and how fast the rest is refused.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.http import load
from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.load_generator import offer
from benchmarks.results_file import write_results
from benchmarks.service_process import fill_store, running_service

DEADLINE_MS = 1000
"""The service's default. Time in sockets that it hasn't read yet counts here, not there."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--generators", type=int, default=1)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--factors", type=float, nargs="*", default=[0.8, 1.5, 5.0])
    args = parser.parse_args()
    args.path = "videos"
    registry = large_registry_of(args.work, args.videos, args.comments)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(
            registry, Path(folder), workers=args.workers, arguments=["--device", args.device]
        ) as port,
    ):
        fill_store(port, registry)
        closed = [offer(port, load(args, 0, seed=seed)) for seed in range(4)]
        peak = statistics.median(seen.goodput_per_s for seen in closed[1:])
        runs = [offer(port, load(args, factor * peak)) for factor in args.factors]
    print(f"peak {peak:,.0f} requests/s")
    rows = []
    for factor, seen in zip(args.factors, runs, strict=True):
        in_time = seen.in_time_per_s(DEADLINE_MS) / peak
        row = {"offered_of_peak": factor, "in_time_of_peak": round(in_time, 3)}
        rows.append({**row, **seen.describe()})
        print(rows[-1])
    write_results(
        args.out,
        {"videos": args.videos, "workers": args.workers, "peak_per_s": round(peak), "runs": rows},
    )


if __name__ == "__main__":
    main()
