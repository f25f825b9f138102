"""Events a second through `POST /events`, in batches of 100, against the store without the service.

Two limits, on stores of their own: the store's, from one process that sends commands packed before;
and that of the store's client, which packs them, from as many processes as the service has workers.
"""

import argparse
import asyncio
import multiprocessing
import socket
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

import hiredis

from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.load_generator import EVENTS_A_CALL, Load, offer
from benchmarks.results_file import spread, write_results
from benchmarks.service_process import USERS, cpu_s_of, running_service
from benchmarks.timing import print_row
from service.append_script import AppendScript
from service.embedded_store import EmbeddedStore
from service.event_log import Event
from service.history_store import HistoryStore
from service.store_keys import StoreKeys

UNDER_WAY = 8
PACKED_BATCHES_PER_S = 800
"""Of batches packed for a second: some more than a store takes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--generators", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    registry = large_registry_of(args.work, args.videos, args.comments)
    names = ("the store alone", "the store's client alone", "POST /events")
    per_s: dict[str, list[float]] = {name: [] for name in names}
    cpu_us = []
    arguments = ["--device", args.device, "--store-write-timeout-ms", "5000"]
    arguments += ["--deadline-ms", "5000"]
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedStore(Path(folder, "packed")) as packed,
        EmbeddedStore(Path(folder, "alone")) as alone,
        running_service(
            registry, Path(folder, "store"), workers=args.workers, arguments=arguments
        ) as port,
        multiprocessing.get_context("spawn").Pool(args.workers) as pool,
    ):
        for seed in range(args.rounds):
            asked = [(packed.url, args.seconds, 100 * seed)]
            per_s["the store alone"].append(sum(pool.starmap(send_packed, asked)))
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
            before_s = cpu_s_of(port)
            events_per_s = offer(port, sent).goodput_per_s * EVENTS_A_CALL
            per_s["POST /events"].append(events_per_s)
            cpu_us.append((cpu_s_of(port) - before_s) / (events_per_s * args.seconds) * 1e6)
    for name, values in per_s.items():
        print_row(name, values, "events/s", digits=0)
    shares = {
        f"of_{key}": spread(
            [mine / limit for mine, limit in zip(per_s[names[2]], per_s[name], strict=True)], 3
        )
        for key, name in (("store", names[0]), ("store_client", names[1]))
    }
    print(f"CPU of the service an event: {sorted(cpu_us)[len(cpu_us) // 2]:.1f} us; {shares}")
    write_results(
        args.out,
        {
            "workers": args.workers,
            "events_per_s": {name: spread(values, digits=0) for name, values in per_s.items()},
            "service_cpu_us_per_event": spread(cpu_us),
            **shares,
        },
    )


def invent_batch(seed: int, number: int, batch: int) -> list[Event]:
    """Events that happen now, each of another user."""
    now_ms = time.time_ns() // 1_000_000
    return [
        Event(
            event_id=f"{seed}-{number}-{batch}-{step}",
            user_id=f"user-{(batch * 7919 + step * 31 + number) % USERS}",
            type="video_watch",
            timestamp=now_ms,
            video_id=f"video-{step * batch % 5000}",
        )
        for step in range(EVENTS_A_CALL)
    ]


def send_packed(url: str, seconds: float, seed: int) -> float:
    """Events a second that the store takes from one connection that has nothing else to do."""
    keys = StoreKeys(4)
    script = AppendScript(keys, max_events=200, expiry_s=86_400, log_entries=250_000)
    batches = [
        [hiredis.pack_command(command) for command in script.commands(invent_batch(seed, 0, batch))]
        for batch in range(int(PACKED_BATCHES_PER_S * seconds))
    ]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(unquote(url.removeprefix("unix://")))
        reader = hiredis.Reader()
        connection.sendall(hiredis.pack_command(("SCRIPT", "LOAD", script.text)))
        _read_answers(connection, reader, 1)
        started_s = time.monotonic()
        for position, batch in enumerate(batches):
            connection.sendall(b"".join(batch))
            if position >= UNDER_WAY:
                _read_answers(connection, reader, len(batches[position - UNDER_WAY]))
        for batch in batches[-UNDER_WAY:]:
            _read_answers(connection, reader, len(batch))
        return len(batches) * EVENTS_A_CALL / (time.monotonic() - started_s)


def _read_answers(connection: socket.socket, reader: hiredis.Reader, count: int) -> None:
    while count:
        answer = reader.gets()
        if answer is False:
            reader.feed(connection.recv(65_536))
            continue
        if isinstance(answer, Exception):
            raise answer
        count -= 1


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
            await store.append_events(invent_batch(seed, number, batch))
            batch += 1
            done += EVENTS_A_CALL

    await asyncio.gather(*map(call, range(UNDER_WAY)))
    await store.close()
    return done / seconds


if __name__ == "__main__":
    main()
