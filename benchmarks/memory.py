"""What memory a video, a comment, a worker and a user cost.

The service at some catalogue sizes and with some numbers of workers; shared pages count once. The
naive way is every process with everything in memory: the bundle as many times as there are workers.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.results_file import write_results
from benchmarks.service_process import USERS, fill_store, memory_of, running_service
from lsvcr.registry import list_versions
from service.embedded_store import EmbeddedStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--engine", choices=["inline", "process"], default="inline")
    args = parser.parse_args()
    runs = []
    for videos in args.sizes:
        comments = videos * args.comments // args.videos
        registry = large_registry_of(args.work, videos, comments)
        bundle = registry / list_versions(registry)[0]
        kinds = bytes_by_kind(bundle)
        size_bytes = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        rows = [measure(registry, workers, size_bytes, args) for workers in args.workers]
        run = {
            "videos": videos,
            "comments": comments,
            "bundle_bytes": size_bytes,
            "bundle_bytes_a_video": round(kinds["video"] / videos),
            "bundle_bytes_a_comment": round(kinds["comment"] / comments),
            "bytes_a_further_worker": further_worker(rows),
            "by_workers": rows,
        }
        runs.append(run)
        print(run, flush=True)
    write_results(args.out, {"engine": args.engine, "users": USERS, "runs": runs})


def measure(
    registry: Path, workers: int, bundle_bytes: int, args: argparse.Namespace
) -> dict[str, Any]:
    """The processes' memory after every user's events were stored, and the store's."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedStore(Path(folder)) as store,
        running_service(
            registry,
            Path(folder, "unused"),
            workers=workers,
            arguments=["--device", args.device, "--engine", args.engine, "--redis", store.url],
        ) as port,
    ):
        fill_store(port, registry, full=True)
        return {
            "workers": workers,
            "naive_bytes": bundle_bytes * workers,
            **memory_of(port),
            **store_bytes(store.url),
        }


def bytes_by_kind(bundle: Path) -> dict[str, int]:
    """Bytes of a bundle's files that have a row for each video, and for each comment."""
    total = {"video": 0, "comment": 0}
    for folder in ("tables", "index", "catalogue", "popular"):
        for path in (bundle / folder).iterdir():
            is_comment = "comment" in path.stem and not path.stem.endswith(("VD", "V1"))
            total["comment" if is_comment else "video"] += path.stat().st_size
    return total


def further_worker(rows: Sequence[dict[str, Any]]) -> int | None:
    """What a worker adds, from the fewest and the most that were measured."""
    few, many = (order(rows, key=lambda row: row["workers"]) for order in (min, max))
    if few is many:
        return None
    return round((many["pss_bytes"] - few["pss_bytes"]) / (many["workers"] - few["workers"]))


def store_bytes(url: str) -> dict[str, int]:
    """What the store holds for a user with a full history, and for an event in its capped log."""
    with Redis.from_url(url) as redis:
        histories = [redis.memory_usage(key) for key in redis.scan_iter(match="*:history:*")]
        streams = list(redis.scan_iter(_type="stream"))
        log_bytes = sum(redis.memory_usage(key, samples=0) for key in streams)
        events = sum(redis.xlen(key) for key in streams)
    return {
        "history_bytes_a_user": round(sum(histories) / len(histories)),
        "log_bytes_an_event": round(log_bytes / events),
    }


if __name__ == "__main__":
    main()
