"""The encoder on an NVIDIA GPU: a few fixed shapes, tables on the device, CUDA graphs.

Shape suffixes: B users, S slots of either side (`max_history` + 1), J comment slots, D width.
"""

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lsvcr.bundle import ENCODER_GRAPH, HALF_GRAPH, HALF_VIDEOS_GRAPH, Bundle
from lsvcr.history import HistoryBatch
from service.engine.cuda_memory import (
    GpuArray,
    copy_from_gpu,
    copy_to_gpu,
    open_on_gpu,
    put_on_gpu,
    record_graph,
    turns,
)
from service.engine.encoder_session import (
    ENCODER_OUTPUTS,
    VIDEO_OUTPUTS,
    CpuEncoder,
    Encoding,
    FloatArray,
    expect_outputs,
    one_thread,
)
from service.errors import NotReadyError

CUDA_BATCH_SIZES = (1, 8, 32, 128, 256)

_ALIGNED = 64
"""Numbers: arrays begin at multiples of 256 bytes, as those that CUDA itself hands out."""

logger = logging.getLogger(__name__)


class CudaEncoder(CpuEncoder):
    """The encoder on a GPU in a few fixed shapes, each captured as a CUDA graph if possible.

    Dynamic shapes cost 2 ms whatever the batch, a captured graph 0.3 ms at batch 1. Tables lie on
    the GPU, shared by all shapes.
    """

    device = "cuda"

    def __init__(self, bundle: Bundle, *, max_batch: int) -> None:
        larger = [size for size in CUDA_BATCH_SIZES if size >= max_batch]
        largest = larger[0] if larger else CUDA_BATCH_SIZES[-1]
        self.batch_sizes = tuple(size for size in CUDA_BATCH_SIZES if size <= largest)
        super().__init__(bundle)

    def encode(self, history: HistoryBatch, *, with_comments: bool) -> Encoding:
        """As `CpuEncoder.encode`; more users than the largest shape are encoded in turns."""
        users, largest = len(history.video_BI), self.batch_sizes[-1]
        shapes = self._shapes if with_comments else self._video_shapes
        parts = []
        for start in range(0, users, largest):
            part = HistoryBatch(*(a[start : start + largest] for a in history.arrays().values()))
            count = len(part.video_BI)
            shape = shapes[next(size for size in self.batch_sizes if size >= count)]
            parts.append({name: output[:count] for name, output in shape.run(part).items()})
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        state_BSD = outputs.get("comment_state", np.empty((users, 0, self._bundle.manifest.width)))
        return Encoding(
            outputs["video_preference"],
            outputs["video_share"][:, : history.video_BI.shape[1]],
            np.ascontiguousarray(state_BSD[:, : history.comment_BJK.shape[1]], np.float32),
        )

    def describe(self) -> dict[str, object]:
        """Where and how the encoder runs, for the service's status."""
        shapes = {
            size: shape.is_captured and self._video_shapes[size].is_captured
            for size, shape in self._shapes.items()
        }
        first = next(iter(self._shapes.values()))
        return {
            "device": self.device,
            "providers": first.session.get_providers(),
            "cuda_graph_by_batch_size": shapes,
        }

    def let_go(self) -> None:
        """As `CpuEncoder.let_go`: each session by itself, as all of them take 50 ms."""
        for held in (self._shapes, self._video_shapes, self._on_gpu):
            while held:
                with turns.prepare():
                    held.popitem()

    def _open_encoder(self, folder: Path) -> None:
        slots = self._bundle.manifest.max_history + 1
        self._on_gpu = {name: put_on_gpu(table) for name, table in self._tables.items()}
        golden = self._bundle.golden.history.arrays().values()
        one = HistoryBatch(*(array[:1] for array in golden))
        width = self._bundle.manifest.width
        whole, part = (folder / name for name in (HALF_GRAPH, HALF_VIDEOS_GRAPH))
        if not whole.exists():  # as in bundles of versions that had no such graphs
            whole = part = folder / ENCODER_GRAPH
        self._shapes, self._video_shapes = (
            {
                size: _open_shape(path, outputs, one, self._on_gpu, (size, slots, width))
                for size in self.batch_sizes
            }
            for path, outputs in ((whole, ENCODER_OUTPUTS), (part, VIDEO_OUTPUTS))
        )


class _CudaShape:
    """One session for one batch size: every input and output has its fixed place on the GPU.

    Inputs lie behind one another in one piece of memory and so do outputs: each copy to or from a
    GPU takes some 20 µs, however little is copied.

    Args:
        outputs: Those of the graph that are wanted.
        example: A history with the extents that all have.
        shape: Users, slots of either side and width: B, S, D.
    """

    def __init__(
        self,
        path: Path,
        outputs: Sequence[str],
        example: HistoryBatch,
        tables: dict[str, GpuArray],
        shape: tuple[int, int, int],
        *,
        is_captured: bool,
    ) -> None:
        self.is_captured = is_captured
        batch, slots, width = shape
        options = one_thread()
        for name, extent in {
            "batch": batch,
            "video_slots": slots,
            "comment_slots": slots,
            "videos": tables["video_input_VD"].shape[0],
            "comments": tables["comment_input_CD"].shape[0],
        }.items():
            options.add_free_dimension_override_by_name(name, extent)
        enabled = "1" if is_captured else "0"
        self.session = open_on_gpu(path, options, enable_cuda_graph=enabled)
        expect_outputs(self.session, outputs, path.name)
        self._binding = self.session.io_binding()
        for name, table in tables.items():
            table.bind_to(self._binding, name)
        self._history = _Joined(
            {name: (batch, slots, *a.shape[2:]) for name, a in example.arrays().items()}, np.int32
        )
        for name, place in self._history.places.items():
            self._binding.bind_input(name, "cuda", 0, np.int32, *place)
        extents = {
            "video_preference": (batch, width),
            "video_share": (batch, slots),
            "comment_state": (batch, slots, width),
        }
        self._outputs = _Joined({name: extents[name] for name in outputs}, np.float32)
        for name, place in self._outputs.places.items():
            self._binding.bind_output(name, "cuda", 0, np.float32, *place)
        self._padded = HistoryBatch(*self._history.split(self._history.content).values())
        record_graph(self.session, self._binding)  # of empty histories

    def run(self, history: HistoryBatch) -> dict[str, FloatArray]:
        """Encode at most B users; outputs of B rows and S slots by name, until the next run."""
        with turns.answer():
            history.pad_into(self._padded)
            copy_to_gpu(self._history.content, self._history.on_gpu)
            self.session.run_with_iobinding(self._binding)
            copy_from_gpu(self._outputs.on_gpu, self._outputs.content)
            return self._outputs.split(self._outputs.content)


class _Joined:
    """Arrays of one type behind one another in one piece of memory on the GPU.

    Attributes:
        content: As many numbers in this process, to copy from or to.
        on_gpu: As many there.
        places: Each array's shape and address there.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], kind: type[np.number[Any]]) -> None:
        self._start: dict[str, int] = {}
        self._shapes = shapes
        end = 0
        for name, shape in shapes.items():
            self._start[name] = end
            end += -(-math.prod(shape) // _ALIGNED) * _ALIGNED
        self.content = np.zeros(end, kind)
        self.on_gpu = put_on_gpu(self.content)
        address, item_bytes = self.on_gpu.address, self.content.itemsize
        self.places = {
            name: (shape, address + self._start[name] * item_bytes)
            for name, shape in shapes.items()
        }

    def split(self, content_N: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The arrays as views of one that holds them all."""
        return {
            name: content_N[self._start[name] :][: math.prod(shape)].reshape(shape)
            for name, shape in self._shapes.items()
        }


def has_cuda() -> bool:
    """Whether the installed runtime can use a GPU; not whether there is one."""
    return "CUDAExecutionProvider" in ort.get_available_providers()


def expect_cuda() -> None:
    """Raise NotReadyError if the installed runtime has no CUDA."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that pip installed
    if not has_cuda():
        raise NotReadyError("device cuda: the installed inference runtime has no CUDA support")


def _open_shape(
    path: Path,
    outputs: Sequence[str],
    example: HistoryBatch,
    tables: dict[str, GpuArray],
    shape: tuple[int, int, int],
) -> _CudaShape:
    """Open one fixed shape, captured as a CUDA graph if the runtime can, and run it."""
    make = partial(_CudaShape, path, outputs, example, tables, shape)
    try:
        return make(is_captured=True)
    except NotReadyError:
        raise
    except Exception as error:  # the runtime has a class of its own for each failure
        logger.warning("no CUDA graph at batch %d: %s", shape[0], error)
    try:
        return make(is_captured=False)
    except NotReadyError:
        raise
    except Exception as error:
        logger.warning("%s at batch %d: %s", path.name, shape[0], error)
        raise NotReadyError("device cuda: the encoder does not run there") from error
