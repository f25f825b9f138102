"""What reading one history costs the client while others wait to be read, in one process.

As the service reads, waiting reads joined into one command; against redis-py's plain `GET`, one for
each. Processor time of the client counts, as the store has a core of its own elsewhere.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from benchmarks.ingest import invent_batch
from benchmarks.results_file import spread, write_results
from benchmarks.service_process import USERS
from benchmarks.timing import print_row
from service.embedded_store import EmbeddedStore
from service.history_store import HistoryStore
from service.history_value import decode_history
from service.store_connection import close_store, connect_store
from service.store_keys import StoreKeys

MAX_CONNECTIONS = 64
BATCHES_STORED = 600
MAX_EVENTS = 200
Read = Callable[[int], Awaitable[object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, nargs="*", default=[1, 16, 32, 128])
    parser.add_argument("--reads", type=int, default=20_000, help="in one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedStore(Path(folder)) as store:
        rows = uvloop.run(measure(store.url, args))
    write_results(args.out, {"users": USERS, "reads": args.reads, "cpu_us_per_read": rows})


async def measure(url: str, args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Microseconds of processor time a read, by how many wait at a time and by the way to read."""
    store = HistoryStore(
        url, read_timeout_ms=5000, write_timeout_ms=5000, max_events=MAX_EVENTS, expiry_s=86_400
    )
    for batch in range(BATCHES_STORED):
        await store.append_events(invent_batch(0, 0, batch))
    redis = connect_store(url, timeout_s=5, max_connections=MAX_CONNECTIONS)
    keys = StoreKeys(4)

    async def read_alone(user: int) -> object:
        value = await redis.get(keys.history(f"user-{user}"))
        return decode_history(value, max_events=MAX_EVENTS)

    async def read_joined(user: int) -> object:
        return await store.fetch_history(f"user-{user}")

    ways: dict[str, Read] = {"joined": read_joined, "GET": read_alone}
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for waiting in args.waiting:
        cpu_us: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, read in ways.items():
                cpu_us[name].append(await cost_of(read, waiting, args.reads))
        rows[str(waiting)] = {name: spread(values) for name, values in cpu_us.items()}
        for name, values in cpu_us.items():
            print_row(f"{name}, {waiting} waiting", values, "us of client CPU a read")
    await close_store(redis)
    await store.close()
    return rows


async def cost_of(read: Read, waiting: int, reads: int) -> float:
    """Microseconds of processor time of one read, with so many under way all the time."""
    users = iter(range(reads))

    async def read_some() -> None:
        for number in users:
            await read(number * 7919 % USERS)

    started_s = time.process_time()
    await asyncio.gather(*(read_some() for _ in range(waiting)))
    return (time.process_time() - started_s) / reads * 1e6


if __name__ == "__main__":
    main()
