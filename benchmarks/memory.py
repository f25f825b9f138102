"""What memory a video, a comment, a worker and a user cost.

The service at two catalogue sizes and with two numbers of workers; shared pages count once. The
naive way is every process with everything in memory: the bundle as many times as there are workers.
"""

import argparse
import tempfile
from pathlib import Path

from redis import Redis

from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.results_file import write_results
from benchmarks.service_process import USERS, fill_store, memory_of, running_service
from service.embedded_store import EmbeddedStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--engine", choices=["inline", "process"], default="inline")
    args = parser.parse_args()
    rows = []
    arguments = ["--device", args.device, "--engine", args.engine]
    for videos in args.sizes:
        comments = videos * args.comments // args.videos
        registry = large_registry_of(args.work, videos, comments)
        files = sum(path.stat().st_size for path in registry.rglob("*") if path.is_file())
        for workers in args.workers:
            with (
                tempfile.TemporaryDirectory() as folder,
                EmbeddedStore(Path(folder)) as store,
                running_service(
                    registry,
                    Path(folder, "unused"),
                    workers=workers,
                    arguments=[*arguments, "--redis", store.url],
                ) as port,
            ):
                empty = used_memory(store.url)
                fill_store(port, registry, full=True)
                row = {
                    "videos": videos,
                    "comments": comments,
                    "workers": workers,
                    "bundle_bytes": files,
                    "naive_bytes": files * workers,
                    **memory_of(port),
                    "store_bytes_a_user": round((used_memory(store.url) - empty) / USERS),
                }
            rows.append(row)
            print(row, flush=True)
    write_results(args.out, {"engine": args.engine, "runs": rows})


def used_memory(url: str) -> int:
    """Bytes that the store has in use."""
    with Redis.from_url(url) as redis:
        return int(redis.info("memory")["used_memory"])


if __name__ == "__main__":
    main()
