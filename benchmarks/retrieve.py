"""What finding candidate videos costs, how many of the best are found, and a whole answer's cost.

The bundle's own index against comparing all vectors with FAISS and with numpy, and against inverted
lists where the bundle's index is exact; queries are what the encoder makes of invented users. With
several --sizes, how all of it grows with the catalogue.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines.whole_lists import with_whole_vectors
from benchmarks.invented_users import as_stored, invent_events, invent_histories
from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.plots import plot_curves
from benchmarks.results_file import spread, write_results
from benchmarks.timing import alternate, print_row
from export.candidate_index import IndexOptions, build_index, recall_by_score, write_index
from lsvcr.bundle import IndexEntry
from lsvcr.registry import list_versions
from service.engine.candidate_index import CandidateIndex
from service.engine.engine import InlineEngine, OpenBundle
from service.engine.first_look import FirstLook
from service.engine.queries import VideoQuery
from service.engine.ranker import Ranker
from service.engine.retrieval import Retriever

COUNT = 150
WANTED = 20
RECALL_AT = 100
NUMPY_BELOW = 2_000_000

FloatArray = NDArray[np.float32]


def main() -> None:
    args = parse_arguments()
    runs = []
    for videos in args.sizes or [args.videos]:
        comments = max(args.comments, videos * args.comments // args.videos)
        registry = large_registry_of(args.work, videos, comments)
        print(f"{videos:,} videos", flush=True)
        run = asyncio.run(measure(registry, args))
        runs.append({"videos": videos, "comments": comments, **run})
    if args.plot:
        plot_growth(args.plot, runs, args.batches[0])
    write_results(args.out, {"wanted_device": args.device, "count": COUNT, "runs": runs})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument(
        "--sizes", type=int, nargs="*", help="numbers of videos; comments grow with them"
    )
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--plot", type=Path, help="PNG file: cost a user, of the first of --batches"
    )
    return parser.parse_args()


@dataclass(frozen=True)
class Asked:
    """An opened bundle and who asks: queries of (Q, D), and their best scores of all, (Q, 100)."""

    opened: OpenBundle
    query_QD: FloatArray
    vector_VD: FloatArray
    flat: faiss.Index
    best_QK: FloatArray

    async def recall_as_served(self) -> float:
        retriever = Retriever(self.opened, "video")
        count = retriever.first_count(RECALL_AT, excluded=0, is_filtered=False)
        found = await self.opened.search("video", self.query_QD, [count] * len(self.query_QD))
        scores = [
            np.sort(self.vector_VD[one.row_N - 1] @ query_D)[::-1][:RECALL_AT]
            for one, query_D in zip(found, self.query_QD, strict=True)
        ]
        return recall_by_score(self.best_QK, np.stack(scores))


async def measure(registry: Path, args: argparse.Namespace) -> dict[str, object]:
    """One catalogue: milliseconds of a call by way and batch, and recall beside them."""
    engine = InlineEngine(registry, device=args.device, max_batch=max(args.batches))
    opened = await engine.open(list_versions(registry)[0])
    asked = await ask_all(opened, max(args.batches))
    entry = opened.bundle.manifest.indexes["video"]
    recall = {"as served": await asked.recall_as_served(), "FAISS flat": 1.0}
    loop = asyncio.get_running_loop()

    def waited(work: Coroutine[Any, Any, object]) -> object:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    ranker = await asyncio.to_thread(Ranker, opened)
    await ranker.share_popularity()
    events = invent_events(opened.bundle.catalogue, max(args.batches))
    histories = as_stored(opened.bundle.catalogue, events, max(args.batches))
    queries = [VideoQuery(history, WANTED, float("inf")) for history in histories]
    ways: dict[str, Callable[[int], object]] = {
        "as served": lambda batch: waited(
            opened.search("video", asked.query_QD[:batch], [COUNT] * batch)
        ),
        "FAISS flat": lambda batch: search(asked.flat, asked.query_QD[:batch]),
        "whole answers": lambda batch: waited(ranker.answer(queries[:batch])),
    }
    lists = None if entry.kind == "flat" else entry
    if lists is None and args.device == "cpu":
        index, lists = inverted_lists(asked)
        ways["inverted lists"] = lambda batch: index.search(asked.query_QD[:batch], [COUNT] * batch)
        recall["inverted lists"] = lists.recall_at_100
    if is_on_gpu(opened) and lists is not None:
        whole, thread = to_gpu(whole_lists(opened)), ThreadPoolExecutor(1)

        async def in_thread(batch: int) -> object:  # as the service hands its searches over
            queries_QD = asked.query_QD[:batch]
            return await loop.run_in_executor(thread, search, whole, queries_QD)

        ways["FAISS lists"] = lambda batch: waited(in_thread(batch))
        recall["FAISS lists"] = lists.recall_at_100
    if len(asked.vector_VD) <= NUMPY_BELOW:
        ways["numpy"] = lambda batch: by_numpy(asked, batch)
    calls = {
        f"{name}, batch {batch}": lambda way=way, batch=batch: way(batch)
        for batch in args.batches
        for name, way in ways.items()
        if name != "numpy" or batch == 1  # more don't fit into memory
    }
    took_ms = await asyncio.to_thread(alternate, calls, rounds=args.rounds, repeat=args.repeat)
    await engine.close()
    for name, values in took_ms.items():
        share = recall.get(name.split(",")[0])
        print_row(name, values, "ms", f"recall {share:.4f}" if share else "")
    return {
        "index": entry.model_dump(),
        "inverted_lists": lists and lists.model_dump(),
        "runs_on": opened.describe(),
        "recall_at_100": {name: round(share, 4) for name, share in recall.items()},
        "ms": {name: spread(values, digits=3) for name, values in took_ms.items()},
    }


async def ask_all(opened: OpenBundle, users: int) -> Asked:
    """What invented users are encoded to, and the best for each, found by comparing all."""
    history = invent_histories(opened.bundle, users, full=False)
    encoded = await opened.encode(
        history.packed(), FirstLook([0] * users, [0.0] * users), until_s=float("inf")
    )
    query_QD = encoded.encoding.video_preference_BD
    vector_VD = np.ascontiguousarray(opened.bundle.tables["video_candidate_VD"][1:])
    flat = faiss.IndexFlatIP(vector_VD.shape[1])
    flat.add(vector_VD)
    if is_on_gpu(opened):
        flat = to_gpu(flat)
    best_QK, _ = flat.search(query_QD, RECALL_AT)
    return Asked(opened, query_QD, vector_VD, flat, best_QK)


def is_on_gpu(opened: OpenBundle) -> bool:
    """Whether the service searches on a GPU, and FAISS could."""
    is_there = opened.describe()["index_device"] == "cuda"
    return is_there and hasattr(faiss, "StandardGpuResources")


def to_gpu(index: faiss.Index) -> faiss.Index:
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def whole_lists(opened: OpenBundle) -> faiss.Index:
    """The bundle's inverted lists as FAISS searches them on a GPU."""
    index = faiss.read_index(str(opened.bundle.folder / "index" / "video.faiss"))
    if isinstance(index, faiss.IndexIVFPQ):
        index = with_whole_vectors(index, opened.bundle.tables["video_candidate_VD"])
    index.nprobe = opened.bundle.manifest.indexes["video"].nprobe
    return index


def inverted_lists(asked: Asked) -> tuple[CandidateIndex, IndexEntry]:
    """The index that an export would make if no catalogue were too small for it."""
    candidate_VD = asked.opened.bundle.tables["video_candidate_VD"]
    options = IndexOptions(flat_below=0, most_probed=1)
    index, entry = build_index(candidate_VD, [asked.query_QD], options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video.faiss")
        write_index(index, path)
        return CandidateIndex.load(path, entry, candidate_VD), entry


def search(index: faiss.Index, query_QD: FloatArray) -> object:
    faiss.omp_set_num_threads(1)  # of this thread, as the service does: what one core does
    return index.search(query_QD, COUNT)


def by_numpy(asked: Asked, batch: int) -> object:
    score_QV = asked.query_QD[:batch] @ asked.vector_VD.T
    return np.argpartition(score_QV, -COUNT, axis=1)[:, -COUNT:]


def plot_growth(path: Path, runs: Sequence[dict[str, Any]], batch: int) -> None:
    """Milliseconds a user against the size of the catalogue, with each point's recall."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    notes: dict[str, list[str]] = {}
    for run in runs:
        of_lists = run["inverted_lists"] is not None and run["index"]["kind"] != "flat"
        for name, way in (
            ("whole answer", "whole answers"),
            ("candidates, inverted lists", "as served" if of_lists else "inverted lists"),
            ("candidates, all compared", "FAISS flat"),
        ):
            if (took := run["ms"].get(f"{way}, batch {batch}")) is None:
                continue
            x, y = curves.setdefault(name, ([], []))
            x.append(run["videos"])
            y.append(took["median"] / batch)
            found = run["recall_at_100"]["as served" if way == "whole answers" else way]
            notes.setdefault(name, []).append(f"{found:.3f}")
    device = runs[0]["runs_on"]["index_device"]
    title = f"Cost of a user on {device}, batches of {batch}; recall at 100 beside each point"
    plot_curves(path, curves, title, "videos", "ms a user", log_x=True, notes=notes)


if __name__ == "__main__":
    main()
