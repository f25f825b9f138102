"""What two versions side by side cost, as an experiment's arms: memory, latency, processor time.

The same load in turn, round after round, answered by one version and by two, half of the users
each. The other version is a copy with files of its own, so nothing of it is shared.
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.http import load
from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.load_generator import Seen, offer
from benchmarks.reload import add_version
from benchmarks.results_file import spread, write_results
from benchmarks.service_process import ask, cpu_s_of, fill_store, memory_of, running_service
from benchmarks.timing import print_row
from lsvcr.registry import list_versions

NAME, OTHER = "two-versions", "another"


def main() -> None:
    args = parse_arguments()
    source = large_registry_of(args.work, args.videos, args.comments)
    rounds: dict[str, list[dict[str, float]]] = {"one version": [], "two versions": []}
    memory: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        registry = Path(folder, "registry")
        shutil.copytree(source, registry)
        versions = [list_versions(registry)[0], OTHER]
        add_version(registry, *versions, copy=shutil.copy2)
        with running_service(
            registry,
            Path(folder, "store"),
            workers=args.workers,
            arguments=["--device", args.device, "--engine", args.engine],
        ) as port:
            fill_store(port, registry)
            for number in range(args.rounds):
                for name, seen in rounds.items():
                    if name == "two versions":
                        ask(port, "PUT", f"/admin/experiments/{NAME}", definition(versions))
                        assert answering(port) == set(versions)
                    offer(port, load(args, args.rate))  # warms up
                    memory.setdefault(name, memory_of(port))
                    seen.append(measure(port, args, seed=number))
                ask(port, "POST", f"/admin/experiments/{NAME}/stop")
                ask(port, "DELETE", f"/admin/experiments/{NAME}")
    for name, seen in rounds.items():
        for unit in ("p50_ms", "p99_ms", "cpu_us"):
            print_row(f"{name}, {unit}", [one[unit] for one in seen], "")
        print(f"{name}: {memory[name]}")
    write_results(
        args.out,
        {
            **{key: vars(args)[key] for key in ("videos", "comments", "engine", "workers")},
            "rate_per_s": args.rate,
            "bundle_bytes": bytes_below(source),
            "memory": memory,
            "of_one_version": {
                unit: round(
                    statistics.median(one[unit] for one in rounds["two versions"])
                    / statistics.median(one[unit] for one in rounds["one version"]),
                    2,
                )
                for unit in ("p50_ms", "p99_ms", "cpu_us")
            },
            "rounds": {
                name: {unit: spread([one[unit] for one in seen], digits=2) for unit in seen[0]}
                for name, seen in rounds.items()
            },
        },
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--engine", choices=["inline", "process"], default="inline")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--generators", type=int, default=1)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    args = parser.parse_args()
    args.path = "videos"
    return args


def definition(versions: list[str]) -> dict[str, Any]:
    """An experiment that gives half of the users each version."""
    arms = [{"name": name, "weight": 0.5, "model_version": name} for name in versions]
    return {"name": NAME, "arms": arms, "control": versions[0], "status": "running"}


def answering(port: int) -> set[str]:
    """The versions that some users' answers come from."""
    bodies = [{"user_id": f"user-{number}", "k": 1} for number in range(40)]
    answers = [ask(port, "POST", "/recommend/videos", body) for body in bodies]
    return {answer["model"]["version"] for answer in answers}


def measure(port: int, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Latencies of one run, and the processor time of a request."""
    before_s = cpu_s_of(port)
    seen: Seen = offer(port, load(args, args.rate, seed=seed + 1))
    return {
        "p50_ms": seen.percentile_ms(50),
        "p99_ms": seen.percentile_ms(99),
        "cpu_us": (cpu_s_of(port) - before_s) / len(seen.status_N) * 1e6,
        "failed": int((seen.status_N != 200).sum()) + seen.degraded,
    }


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
