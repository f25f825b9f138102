"""How long encoding takes on a GPU: as served, and as one would do it first.

Histories are full, 50 events a side. The limit is what was measured on one H100 with fixed shapes,
half precision and CUDA graphs, before this code was written.
"""

import argparse
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

from benchmarks.invented_users import invent_histories
from benchmarks.large_bundle import add_bundle_arguments, large_registry_of
from benchmarks.results_file import spread, write_results
from benchmarks.timing import alternate, print_row
from lsvcr.bundle import ENCODER_GRAPH, ENCODER_TABLES, Bundle, load_bundle
from lsvcr.history import HistoryBatch
from lsvcr.registry import list_versions
from service.engine.cuda_encoder import CudaEncoder, expect_cuda
from service.engine.cuda_stream import Lane, Stream
from service.engine.encoder_session import ENCODER_OUTPUTS, CpuEncoder, one_thread, open_session

LIMIT_MS = {1: 0.30, 32: 0.37, 64: 0.43, 128: 0.57, 256: 0.88}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_bundle_arguments(parser)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    registry = large_registry_of(args.work, args.videos, args.comments)
    bundle = load_bundle(registry / list_versions(registry)[0], verify_checksums=False)
    history = invent_histories(bundle, max(args.batches), full=True)
    ways: dict[str, Callable[[], object]] = {}
    if args.device == "cuda":
        expect_cuda()
        encoder: CpuEncoder = CudaEncoder(bundle, Lane(Stream()), max_batch=max(args.batches))
        naive = dynamic_session(bundle)
        for batch in args.batches:
            ways[f"dynamic shapes on the GPU, batch {batch}"] = naive(history.take(slice(batch)))
    else:
        encoder = CpuEncoder(bundle)
    for batch in args.batches:
        part = history.take(slice(batch))
        ways[f"as served, batch {batch}"] = lambda part=part: encoder.encode(
            part, with_states=False
        )
    took_ms = alternate(ways, rounds=args.rounds, repeat=args.repeat)
    rows = {}
    for name, values in took_ms.items():
        batch = int(name.rsplit(" ", 1)[1])
        limit = f"limit {LIMIT_MS[batch]} ms" if batch in LIMIT_MS else ""
        print_row(name, values, "ms", limit)
        rows[name] = {**spread(values, digits=3), "limit_ms": LIMIT_MS.get(batch)}
    write_results(
        args.out,
        {"videos": args.videos, "comments": args.comments, **encoder.describe(), "ms": rows},
    )


def dynamic_session(bundle: Bundle) -> Callable[[HistoryBatch], Callable[[], object]]:
    """The exported graph, run on the GPU without fixing any shape; tables lie there already."""
    session = open_session(
        bundle.folder / ENCODER_GRAPH, one_thread(), [("CUDAExecutionProvider", {})]
    )
    tables = {
        name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(bundle.tables[name]), "cuda", 0)
        for name in ENCODER_TABLES
    }

    def bind(history: HistoryBatch) -> Callable[[], object]:
        def run() -> object:
            binding = session.io_binding()
            for name, table in tables.items():
                binding.bind_ortvalue_input(name, table)
            for name, array in history.arrays().items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name in ENCODER_OUTPUTS[:2]:
                binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding)
            return binding.copy_outputs_to_cpu()

        return run

    return bind


if __name__ == "__main__":
    main()
