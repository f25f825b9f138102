"""Requests a second and latencies of the whole service, against a bare FastAPI app and peers.

All get the same load on the same cores in turn, round after round, the others halted; with
`--service-cores` the load has its own. First as much as they can answer (a closed loop), then the
service alone at fixed rates (an open loop whose arrivals don't wait for answers). Requests name
random users with stored histories and ask for 20 items. Peers answer with the same model, index and
store: `baselines/`.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.load_generator import Load, Seen, offer
from benchmarks.plots import plot_latency
from benchmarks.results_file import spread, write_results
from benchmarks.service_process import (
    PEERS,
    USERS,
    Cores,
    add_cores_argument,
    cpu_s_of,
    fill_store,
    halted,
    running_app,
    running_peer,
    running_service,
)
from benchmarks.timing import print_row
from lsvcr.registry import list_versions
from service.embedded_store import EmbeddedStore

PATHS = {
    "videos": "/recommend/videos",
    "comments": "/recommend/comments",
    "comments-under": "/recommend/comments",
}
"""What can be asked for, `comments` of all videos or of the one on screen, and where."""


def main() -> None:
    args = parse_arguments()
    registry = large_registry_of(args.work, args.videos, args.comments)
    arguments = ["--device", args.device, "--engine", args.engine, "--max-batch", str(args.batch)]
    arguments += ["--deadline-ms", "5000", "--store-timeout-ms", "2000"]  # measured, not cut off
    arguments += ["--gpus", args.gpus] if args.gpus else []
    cores = Cores(args.service_cores)
    closed: dict[str, list[Seen]] = {"bare FastAPI": [], "service": []}
    cpu_us: dict[str, list[float]] = {"bare FastAPI": [], "service": []}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with cores.for_service():
            store = stack.enter_context(EmbeddedStore(folder / "store"))
            bare = stack.enter_context(running_app("bare", workers=args.workers))
            arguments += ["--redis", store.url]
            running = running_service(
                registry, folder / "unused", workers=args.workers, arguments=arguments
            )
            service = stack.enter_context(running)
        fill_store(service, registry, full=args.full)
        offer(service, load(args, 0))  # the first round warms up
        ports = {"bare FastAPI": bare, "service": service}
        asked = {
            "BUNDLE": str(registry / list_versions(registry)[0]),
            "STORE": store.url,
            "THREADS": str(args.peers_threads),
        }
        for name in args.peers:
            peer = running_peer(name, asked, workers=args.workers, python=args.peers_python)
            with cores.for_service():
                ports[name] = stack.enter_context(peer)
            closed[name], cpu_us[name] = [], []
            offer(ports[name], load_of(args, name, 0))
        for number in range(args.rounds):
            for name, port in ports.items():
                with halted(other for other in ports.values() if other != port):
                    before_s = cpu_s_of(port)
                    seen = offer(port, load_of(args, name, number + 1))
                closed[name].append(seen)
                answered = seen.goodput_per_s * args.seconds
                cpu_us[name].append((cpu_s_of(port) - before_s) / max(answered, 1) * 1e6)
        per_s = {name: [seen.goodput_per_s for seen in rounds] for name, rounds in closed.items()}
        peak = statistics.median(per_s["service"])
        rates = [*args.rates, *(peak * share for share in args.shares)]
        with halted(other for other in ports.values() if other != service):
            opened = [offer(service, load(args, rate)) for rate in sorted(rates)]
    ratios = {
        name: [mine / theirs for mine, theirs in zip(per_s["service"], values, strict=True)]
        for name, values in per_s.items()
        if name != "service"
    }
    for name, values in per_s.items():
        p99_ms = statistics.median(seen.percentile_ms(99) for seen in closed[name])
        cost = f"p99 {p99_ms:.1f} ms, {statistics.median(cpu_us[name]):.0f} us of CPU a request"
        print_row(name, values, "requests/s", cost, digits=0)
    for name, rounds in ratios.items():
        print_row(f"service over {name}", rounds, "times")
    for seen in opened:
        print(seen.describe(), flush=True)
    if args.plot:
        plot_latency(args.plot, opened, f"POST {PATHS[args.path]}, {args.videos:,} videos")
    write_results(
        args.out,
        {
            **{key: vars(args)[key] for key in ("path", "videos", "comments", "device", "engine")},
            **{
                key: vars(args)[key]
                for key in ("gpus", "workers", "connections", "generators", "full")
            },
            "service_cores": len(cores.service),
            "load_cores": len(cores.load),
            "closed_loop_per_s": {name: spread(values) for name, values in per_s.items()},
            "cpu_us_per_request": {name: spread(values) for name, values in cpu_us.items()},
            "closed_loop": {name: rounds[-1].describe() for name, rounds in closed.items()},
            "peers": {"threads": args.peers_threads},
            "service_over": {name: spread(rounds, digits=3) for name, rounds in ratios.items()},
            "open_loop": [seen.describe() for seen in opened],
        },
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--path", choices=[*PATHS], default="videos")
    parser.add_argument("--engine", choices=["auto", "inline", "process"], default="auto")
    parser.add_argument("--gpus", default="", help="as the service's: an engine process on each")
    parser.add_argument("--workers", type=int, default=2)
    add_cores_argument(parser)
    parser.add_argument("--batch", type=int, default=16, help="--max-batch of the service")
    parser.add_argument("--full", action="store_true", help="everybody's history is full")
    parser.add_argument("--generators", type=int, default=1, help="processes that make the load")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="requests a second")
    parser.add_argument(
        "--shares", type=float, nargs="*", default=[0.2, 0.4, 0.6, 0.8, 0.95], help="of the peak"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[], help="of baselines/")
    parser.add_argument(
        "--peers-python",
        type=Path,
        default=Path(sys.executable),
        help="of an environment with baselines/requirements-peers.txt",
    )
    parser.add_argument(
        "--peers-threads", type=int, default=1, help="of a session; 0 is the runtime's own choice"
    )
    parser.add_argument("--plot", type=Path, help="PNG file")
    return parser.parse_args()


def load_of(args: argparse.Namespace, name: str, seed: int) -> Load:
    """The closed loop for the service or for one of the others, who know videos alone."""
    if name == "service":
        return load(args, 0, seed=seed)
    asked = load(args, 0, "videos", seed)
    return replace(asked, bodies="listed") if name == "bentoml" else asked


def load(args: argparse.Namespace, per_s: float, path: str | None = None, seed: int = 1) -> Load:
    """One run's load; a closed loop where `per_s` is 0."""
    path = path or args.path
    open_loop = 4 if per_s else 1  # a late answer must not keep the next request from being sent
    return Load(
        path=PATHS[path],
        bodies=path,
        per_s=per_s,
        seconds=args.seconds,
        connections=args.connections * open_loop,
        items=USERS,
        videos=args.videos,
        generators=args.generators,
        seed=seed,
    )


if __name__ == "__main__":
    main()
