"""Whether anybody notices when another model is activated under load.

The same load three times: left alone, with activations in between, and left alone again. A request
is slow if it takes more than twice the 99th percentile of the first run; the third run tells how
many do so by chance.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.http import load
from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.load_generator import offer
from benchmarks.results_file import write_results
from benchmarks.service_process import (
    Cores,
    add_cores_argument,
    ask,
    fill_store,
    memory_of,
    running_service,
)
from lsvcr.registry import list_versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--engine", choices=["inline", "process"], default="inline")
    parser.add_argument("--workers", type=int, default=1)
    add_cores_argument(parser)
    parser.add_argument("--generators", type=int, default=1)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--activations", type=int, default=4)
    args = parser.parse_args()
    args.path = "videos"
    cores = Cores(args.service_cores)
    source = large_registry_of(args.work, args.videos, args.comments)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        registry = Path(folder, "registry")
        shutil.copytree(source, registry, copy_function=os.link)
        versions = [list_versions(registry)[0], "another"]
        add_version(registry, *versions)
        arguments = ["--device", args.device, "--engine", args.engine, "--refresh-s", "1"]
        running = running_service(
            registry, Path(folder, "store"), workers=args.workers, arguments=arguments
        )
        with contextlib.ExitStack() as stack:
            with cores.for_service():
                port = stack.enter_context(running)
            fill_store(port, registry)
            offer(port, load(args, args.rate))  # warms up
            quiet = offer(port, load(args, args.rate))
            before = memory_of(port)
            took_s: list[float] = []
            turns = itertools.islice(itertools.cycle(versions[::-1]), args.activations)
            changing = threading.Thread(target=activate, args=(port, turns, took_s))
            changing.start()
            changed = offer(port, load(args, args.rate))
            changing.join()
            after = memory_of(port)
            control = offer(port, load(args, args.rate))
    limit_ms = 2 * quiet.percentile_ms(99)
    found = {
        "rate_per_s": args.rate,
        "engine": args.engine,
        "service_cores": len(cores.service),
        "activations_s": [round(one, 2) for one in took_s],
        "failed": int((changed.status_N != 200).sum()) + changed.degraded,
        "slow_above_ms": round(limit_ms, 2),
        "slow": int((changed.latency_ms_N > limit_ms).sum()),
        "slow_in_control": int((control.latency_ms_N > limit_ms).sum()),
        "quiet": quiet.describe(),
        "changing": changed.describe(),
        "control": control.describe(),
        "memory_before": before,
        "memory_after": after,
    }
    print(json.dumps(found, indent=1))
    write_results(args.out, {"videos": args.videos, "comments": args.comments, **found})


def add_version(
    registry: Path, version: str, name: str, copy: Callable[[str, str], object] = os.link
) -> None:
    """The same bundle under another name; its files are links by default, the manifest is new."""
    shutil.copytree(registry / version, registry / name, copy_function=copy)
    manifest = registry / name / "manifest.json"
    fields = json.loads(manifest.read_text())
    manifest.unlink()
    manifest.write_text(json.dumps({**fields, "version": name}))


def activate(port: int, versions: Iterable[str], took_s: list[float]) -> None:
    """Activate one version after the other, a second after the load has begun and later."""
    for version in versions:
        time.sleep(1)
        started_s = time.perf_counter()
        ask(port, "POST", f"/admin/models/{version}/activate")
        took_s.append(time.perf_counter() - started_s)


if __name__ == "__main__":
    main()
