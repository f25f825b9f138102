"""Users a second of the engine process, asked by several processes as by front-ends.

    encode   each asks with inputs prepared beforehand: the engine process alone is the limit; on a
             GPU it chooses candidates by the whole score, prior included
    rank     each also prepares inputs and ranks, as a front-end does: no HTTP

Ways: `process` asks one engine process, `gpus` one on each of --gpus, and `inline`, the naive way,
computes everything in each asker.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.invented_users import (
    as_stored,
    invent_events,
    invent_full_events,
    invent_histories,
)
from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.results_file import spread, write_results
from benchmarks.timing import print_row
from lsvcr.registry import list_versions
from service.engine.engine import Engine, InlineEngine, OpenBundle
from service.engine.engine_client import RemoteEngine
from service.engine.engine_group import EngineGroup
from service.engine.first_look import FirstLook
from service.engine.queries import VideoQuery
from service.engine.ranker import Ranker
from service.engine.recommender import Recommender
from service.engine_process import EngineProcess
from service.settings import Settings

USERS = 2_000
WANTED, COUNT = 100, 150
START_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="users in one question")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="everybody's history is full")
    parser.add_argument("--gpus", default="0", help="as the service's, for the way `gpus`")
    parser.add_argument("--ways", nargs="*", default=["process encode", "process rank"])
    args = parser.parse_args()
    registry = large_registry_of(args.work, args.videos, args.comments)
    settings = Settings(
        registry=registry, device=args.device, max_batch=args.batch, log_level="warning"
    )
    per_s: dict[str, list[float]] = {way: [] for way in args.ways}
    with contextlib.ExitStack() as stack:
        gpus = args.gpus.split(",")
        processes = [stack.enter_context(EngineProcess(settings, gpu)) for gpu in gpus]
        for way in args.ways:
            where, what = way.split()
            asked = {"inline": [], "process": processes[:1], "gpus": processes}[where]
            sockets = [process.socket for process in asked]
            per_s[way] = ask_from_processes(registry, sockets, what, args)
            print_row(f"{way}, {args.clients} askers", per_s[way], "users/s", digits=0)
    write_results(
        args.out,
        {
            "videos": args.videos,
            "comments": args.comments,
            "wanted_device": args.device,
            "gpus": args.gpus,
            "clients": args.clients,
            "batch": args.batch,
            "full_histories": args.full,
            "users_per_s": {way: spread(values, digits=0) for way, values in per_s.items()},
        },
    )


def ask_from_processes(
    registry: Path, sockets: list[Path], what: str, args: argparse.Namespace
) -> list[float]:
    """Users a second of all askers together, round by round."""
    os.environ["OMP_NUM_THREADS"] = "1"  # as a service's workers have it
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(args.clients)
    with context.Pool(args.clients, initializer=_remember, initargs=(barrier,)) as pool:
        asked = pool.starmap(
            _ask,
            [(registry, sockets, what, number, vars(args)) for number in range(args.clients)],
            1,
        )
    return [float(sum(rounds)) for rounds in zip(*asked, strict=True)]


def _remember(barrier: object) -> None:
    global _BARRIER
    _BARRIER = barrier


_BARRIER: object = None


def _ask(
    registry: Path, sockets: list[Path], what: str, number: int, options: dict[str, object]
) -> list[float]:
    return uvloop.run(_asker(registry, sockets, what, number, argparse.Namespace(**options)))


async def _asker(
    registry: Path, sockets: list[Path], what: str, number: int, args: argparse.Namespace
) -> list[float]:
    """One asker: open, wait for the others, then ask for some rounds."""
    version = list_versions(registry)[0]
    engine: Engine
    if not sockets:
        engine = InlineEngine(registry, device=args.device, max_batch=args.batch)
    else:
        engine = EngineGroup([RemoteEngine(registry, socket) for socket in sockets])
    if what == "encode":
        opened = await engine.open(version)
        ranker = await asyncio.to_thread(Ranker, opened)
        await ranker.share_popularity()
        asking = Encoding(opened, args.batch, args.full)
    else:
        folder = registry / version
        recommender = await Recommender.load(engine, folder, max_queue=9999, max_batch=args.batch)
        asking = Ranking(recommender, number, args.full)
    found = []
    for _ in range(args.rounds + 1):  # the first round warms up
        await asyncio.to_thread(_BARRIER.wait, START_S)  # type: ignore[attr-defined]
        until_s = time.monotonic() + args.seconds
        done = await asyncio.gather(*(asking.until(until_s) for _ in range(asking.in_flight)))
        found.append(sum(done) / args.seconds)
    await engine.close()
    return found[1:]


class Encoding:
    """Asks with the same prepared inputs again and again."""

    def __init__(self, opened: OpenBundle, batch: int, full: bool) -> None:
        self._opened = opened
        self.in_flight = opened.in_flight
        history = invent_histories(opened.bundle, 16 * batch, full=full)
        content_BSF = history.packed()
        self._parts = [content_BSF[start : start + batch] for start in range(0, 16 * batch, batch)]

    async def until(self, until_s: float) -> int:
        users = 0
        while time.monotonic() < until_s:
            part = random.choice(self._parts)
            encoded = await self._opened.encode(
                part, FirstLook([COUNT] * len(part), [1.0] * len(part)), until_s=np.inf
            )
            users += len(encoded.candidates)
        return users


class Ranking:
    """Asks as a front-end would, for random users."""

    in_flight = 64

    def __init__(self, recommender: Recommender, number: int, full: bool) -> None:
        self._recommender = recommender
        catalogue = recommender.catalogue
        draw = invent_full_events if full else invent_events
        self._histories = as_stored(catalogue, draw(catalogue, USERS, seed=number), USERS)

    async def until(self, until_s: float) -> int:
        users = 0
        while time.monotonic() < until_s:
            query = VideoQuery(random.choice(self._histories), WANTED, float("inf"))
            answer = await self._recommender.recommend_videos(query)
            assert answer.source == "model"
            users += 1
        return users


if __name__ == "__main__":
    main()
