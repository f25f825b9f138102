"""How many users a second are encoded on a CPU: as served, and as one would do it first.

Every way encodes the same histories on one thread, in turn, round after round. `as served` gets
what the service's engine gets: queries in batches as they wait, in no order.
"""

import argparse
import threading
import time
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import onnxruntime as ort
import torch

from benchmarks.invented_bundle import add_size_arguments, invent_run, registry_of
from benchmarks.invented_users import build_timelines, invent_events
from benchmarks.results_file import spread, write_results
from lsvcr.bundle import ENCODER_GRAPH, ENCODER_TABLES, load_bundle
from lsvcr.history import HistoryBatch
from service.engine.encoder_session import ENCODER_OUTPUTS, CpuEncoder, one_thread
from training.batches import to_tensors
from training.encoder import now, unit

USERS = 1024
WAITING = 16
REFERENCE = "naive export, batch 32"

Encode = Callable[[HistoryBatch], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_size_arguments(parser)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)

    registry = registry_of(args.work, args.videos)
    bundle = load_bundle(next(path.parent for path in registry.glob("*/manifest.json")))
    events = invent_events(bundle.catalogue, USERS)
    keep, most = bundle.manifest.comments_per_event, bundle.manifest.max_history
    history = build_timelines(bundle.catalogue, events, USERS, keep).latest_windows(most)

    served = CpuEncoder(bundle)
    naive = ort.InferenceSession(str(bundle.folder / ENCODER_GRAPH), one_thread())
    tables = {name: bundle.tables[name] for name in ENCODER_TABLES}
    recommender = invent_run(args.videos).recommender
    popular_comment_V = bundle.catalogue.popular_comment()

    def by_naive_export(part: HistoryBatch) -> object:
        return naive.run(ENCODER_OUTPUTS[:2], {**part.arrays(), **tables})

    def as_served(part: HistoryBatch) -> object:
        return served.encode(part, with_states=False)

    def as_served_with_comments(part: HistoryBatch) -> object:
        return served.encode(part, with_states=True)

    @torch.no_grad()
    def by_torch(part: HistoryBatch) -> object:
        cpu = torch.device("cpu")
        popular_BI = torch.from_numpy(popular_comment_V[part.video_BI])
        states = recommender.encode(to_tensors(part, cpu), popular_BI)
        cut_B1 = now(len(part.video_BI), 1, cpu)
        return unit(recommender.sequence.video_preferences(states, cut_B1)[0])

    ways: dict[str, tuple[Encode, int]] = {
        "torch, batch 32": (by_torch, 32),
        "naive export, batch 1": (by_naive_export, 1),
        REFERENCE: (by_naive_export, 32),
        "as served, batch 1": (as_served, 1),
        "as served, 16 waiting": (as_served, WAITING),
        "as served, 16 waiting, with comments": (as_served_with_comments, WAITING),
    }
    users_per_s: dict[str, list[float]] = {name: [] for name in (*ways, "two threads")}
    for _ in range(args.rounds + 1):  # the first round allocates
        for name, (encode, size) in ways.items():
            started_s = time.perf_counter()
            encode_all(encode, history, size)
            users_per_s[name].append(USERS / (time.perf_counter() - started_s))
        users_per_s["two threads"].append(with_two_threads(as_served, history))

    reference = spread(users_per_s[REFERENCE][1:])["median"]
    rows = {}
    for name, rounds in users_per_s.items():
        row = spread(rounds[1:], digits=0)
        size = ways[name][1] if name in ways else WAITING
        row["batch_ms"] = round(size * 1000 / row["median"], 3)
        row["of_reference"] = round(row["median"] / reference, 2)
        rows[name] = row
        print(
            f"{name:38} {row['median']:>7,.0f} users/s ({row['smallest']:,.0f} to "
            f"{row['largest']:,.0f})  {row['batch_ms']:7.2f} ms a batch  "
            f"{row['of_reference']:.2f} x"
        )
    write_results(args.out, {"videos": args.videos, "users_per_s": rows})


def encode_all(encode: Encode, history: HistoryBatch, size: int) -> None:
    """Encode everybody in batches, each padded to its own longest history."""
    for start in range(0, len(history.video_BI), size):
        encode(cut_padding(history, start, start + size))


def cut_padding(history: HistoryBatch, start: int, stop: int) -> HistoryBatch:
    """Some rows, without the slots that none of them uses."""
    part = {field.name: getattr(history, field.name)[start:stop] for field in fields(history)}
    videos = 1 + int(np.count_nonzero(part["video_BI"], axis=1).max())
    comments = 1 + int(np.count_nonzero(part["comment_video_BJ"], axis=1).max())
    return HistoryBatch(
        **{
            name: array[:, : comments if name.startswith("comment") else videos]
            for name, array in part.items()
        }
    )


def with_two_threads(encode: Encode, history: HistoryBatch) -> float:
    """Users a second when two callers share one session, as many cores as there are callers."""
    threads = [threading.Thread(target=encode_all, args=(encode, history, WAITING)) for _ in "ab"]
    started_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 2 * USERS / (time.perf_counter() - started_s)


if __name__ == "__main__":
    main()
