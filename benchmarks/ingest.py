"""Events a second through `POST /events`, in batches of 100, against the store without the service.

The limit is the same script run by the store's client alone, from as many processes as the service
has workers.
"""

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from pathlib import Path

from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.load_generator import EVENTS_A_CALL, NOW_MS, Load, offer
from benchmarks.results_file import spread, write_results
from benchmarks.service_process import USERS, running_service
from benchmarks.timing import print_row
from service.embedded_store import EmbeddedStore
from service.event_log import Event
from service.history_store import HistoryStore

UNDER_WAY = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--generators", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    registry = large_registry_of(args.work, args.videos, args.comments)
    per_s: dict[str, list[float]] = {"the store's client alone": [], "POST /events": []}
    arguments = ["--device", args.device, "--store-write-timeout-ms", "5000"]
    arguments += ["--deadline-ms", "5000"]
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedStore(Path(folder, "alone")) as alone,
        running_service(
            registry, Path(folder, "store"), workers=args.workers, arguments=arguments
        ) as port,
        multiprocessing.get_context("spawn").Pool(args.workers) as pool,
    ):
        for seed in range(args.rounds):
            asked = [(alone.url, args.seconds, 100 * seed + n) for n in range(args.workers)]
            per_s["the store's client alone"].append(sum(pool.starmap(append_events, asked)))
            sent = Load(
                "/events",
                "events",
                0,
                args.seconds,
                connections=UNDER_WAY * args.workers,
                items=USERS,
                generators=args.generators,
                seed=seed + 1,
            )
            per_s["POST /events"].append(offer(port, sent).goodput_per_s * EVENTS_A_CALL)
    for name, values in per_s.items():
        print_row(name, values, "events/s", digits=0)
    ratios = [mine / limit for limit, mine in zip(*per_s.values(), strict=True)]
    print(f"of the store's client alone: {sorted(ratios)[len(ratios) // 2]:.2f}")
    write_results(
        args.out,
        {
            "workers": args.workers,
            "events_per_s": {name: spread(values, digits=0) for name, values in per_s.items()},
            "of_store_client": spread(ratios, digits=3),
        },
    )


def append_events(url: str, seconds: float, seed: int) -> float:
    """Events a second that one process appends, with some calls under way."""
    return asyncio.run(_append(url, seconds, seed))


async def _append(url: str, seconds: float, seed: int) -> float:
    store = HistoryStore(
        url, read_timeout_ms=5000, write_timeout_ms=5000, max_events=200, expiry_s=86_400
    )
    until_s = time.monotonic() + seconds
    done = 0

    async def call(number: int) -> None:
        nonlocal done
        batch = 0
        while time.monotonic() < until_s:
            await store.append_events(
                [
                    Event(
                        event_id=f"{seed}-{number}-{batch}-{step}",
                        user_id=f"user-{(batch * 7919 + step * 31 + number) % USERS}",
                        type="video_watch",
                        timestamp=NOW_MS + step,
                        video_id=f"video-{step * batch % 5000}",
                    )
                    for step in range(EVENTS_A_CALL)
                ]
            )
            batch += 1
            done += EVENTS_A_CALL

    await asyncio.gather(*map(call, range(UNDER_WAY)))
    await store.close()
    return done / seconds


if __name__ == "__main__":
    main()
