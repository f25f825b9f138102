"""How long finding candidate videos takes, and how many of the best are found.

The bundle's own index against comparing all vectors with FAISS and with numpy; queries are what
the encoder makes of invented users.
"""

import argparse
import asyncio

import faiss
import numpy as np

from benchmarks.invented_users import invent_histories
from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.results_file import spread, write_results
from benchmarks.timing import alternate, print_row
from lsvcr.registry import list_versions
from service.engine.engine import InlineEngine

COUNT = 150
RECALL_AT = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32, 256])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    registry = large_registry_of(args.work, args.videos, args.comments)
    engine = InlineEngine(registry, device=args.device, max_batch=max(args.batches))

    async def measure() -> dict[str, object]:
        opened = await engine.open(list_versions(registry)[0])
        history = invent_histories(opened.bundle, max(args.batches), full=False)
        encoded = await opened.encode(
            history, with_comments=False, counts=[0] * max(args.batches), until_s=float("inf")
        )
        query_QD = encoded.encoding.video_preference_BD
        vector_VD = np.ascontiguousarray(opened.bundle.tables["video_candidate_VD"][1:])
        flat = faiss.IndexFlatIP(vector_VD.shape[1])
        flat.add(vector_VD)
        if opened.describe()["index_device"] == "cuda":
            flat = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat)
        loop = asyncio.get_running_loop()

        def as_served(batch: int) -> object:
            counts = [COUNT] * batch
            search = opened.search("video", query_QD[:batch], counts)
            return asyncio.run_coroutine_threadsafe(search, loop).result()

        def by_numpy(batch: int) -> object:
            score_QV = query_QD[:batch] @ vector_VD.T
            return np.argpartition(score_QV, -COUNT, axis=1)[:, -COUNT:]

        ways = {}
        for batch in args.batches:
            ways[f"as served, batch {batch}"] = lambda batch=batch: as_served(batch)
            ways[f"FAISS flat, batch {batch}"] = lambda batch=batch: flat.search(
                query_QD[:batch], COUNT
            )
        if args.videos <= 2_000_000:
            ways["numpy, batch 1"] = lambda: by_numpy(1)
        took_ms = await asyncio.to_thread(alternate, ways, rounds=args.rounds, repeat=args.repeat)
        exact_QK, _ = flat.search(query_QD, RECALL_AT)
        found = await opened.search("video", query_QD, [RECALL_AT] * len(query_QD))
        hits = [
            np.mean(vector_VD[one.row_N - 1] @ query_D >= exact_K[-1] - 1e-5)
            for one, query_D, exact_K in zip(found, query_QD, exact_QK, strict=True)
        ]
        for name, values in took_ms.items():
            print_row(name, values, "ms")
        entry = opened.bundle.manifest.indexes["video"]
        print(f"recall at {RECALL_AT}: {np.mean(hits):.4f} ({entry.kind}, nprobe {entry.nprobe})")
        return {
            "index": entry.model_dump(),
            "runs_on": opened.describe(),
            "recall_at_100": round(float(np.mean(hits)), 4),
            "ms": {name: spread(values, digits=3) for name, values in took_ms.items()},
        }

    found = asyncio.run(measure())
    write_results(args.out, {"videos": args.videos, "comments": args.comments, **found})


if __name__ == "__main__":
    main()
