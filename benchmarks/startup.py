"""How long a service takes from its start until it is ready, and what it costs to keep it.

Against it: reading the bundle's files once (the limit, as every byte's checksum is verified), and
loading everything into memory with numpy and FAISS, as one would do it first.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.results_file import spread, write_results
from benchmarks.service_process import memory_of, running_service
from benchmarks.timing import print_row
from lsvcr.registry import list_versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument(
        "--sizes", type=int, nargs="*", help="numbers of videos; comments grow with them"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    runs = []
    for videos in args.sizes or [args.videos]:
        comments = videos * args.comments // args.videos
        registry = large_registry_of(args.work, videos, comments)
        print(f"{videos:,} videos, {comments:,} comments", flush=True)
        run = measure(registry, args)
        runs.append({"videos": videos, "comments": comments, **run})
    write_results(args.out, {"device": args.device, "workers": args.workers, "runs": runs})


def measure(registry: Path, args: argparse.Namespace) -> dict[str, object]:
    """One bundle: seconds by way, and what the service holds once it is ready."""
    folder = registry / list_versions(registry)[0]
    memory: list[dict[str, int]] = []

    def start() -> float:
        with tempfile.TemporaryDirectory() as store:
            started_s = time.perf_counter()
            arguments = ["--device", args.device]
            with running_service(
                registry, Path(store), workers=args.workers, arguments=arguments
            ) as port:
                ready_s = time.perf_counter() - started_s
                memory.append(memory_of(port))
                return ready_s

    ways: dict[str, Callable[[], float]] = {
        "reading all files": lambda: timed(read_files, folder),
        "numpy and FAISS, into memory": lambda: timed(load_naively, folder),
        "the service, ready": start,
    }
    took_s: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, call in ways.items():
            took_s[name].append(call())
    for name, values in took_s.items():
        print_row(name, values, "s", digits=2)
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"bundle {size_bytes / 1e9:.2f} GB; memory {memory[-1]}")
    return {
        "bundle_bytes": size_bytes,
        "memory": memory[-1],
        "seconds": {name: spread(values, digits=2) for name, values in took_s.items()},
    }


def timed(function: Callable[[Path], object], folder: Path) -> float:
    """Seconds of one call."""
    started_s = time.perf_counter()
    function(folder)
    return time.perf_counter() - started_s


def read_files(folder: Path) -> None:
    """Every byte, once."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while file.read(1 << 24):
                    pass


def load_naively(folder: Path) -> object:
    """All arrays and indexes into this process."""
    arrays = [np.load(path) for path in folder.rglob("*.npy")]
    return arrays, [faiss.read_index(str(path)) for path in folder.rglob("*.faiss")]


if __name__ == "__main__":
    main()
