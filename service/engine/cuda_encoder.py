"""The encoder on an NVIDIA GPU: a few fixed shapes, tables on the device, CUDA graphs.

Shape suffixes: B users, S slots of either side (`max_history` + 1), J comment slots, D width.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from lsvcr.bundle import ENCODER_GRAPH, HALF_GRAPH, HALF_VIDEOS_GRAPH, Bundle
from lsvcr.errors import LsvcrError
from lsvcr.history import HistoryBatch
from service.engine.cuda_memory import GpuArray, JoinedArrays, put_on_gpu, turns
from service.engine.cuda_stream import Lane, OpenGraph, Stream, beside_no_recording
from service.engine.encoder_session import (
    ENCODER_OUTPUTS,
    VIDEO_OUTPUTS,
    CpuEncoder,
    Encoding,
    expect_outputs,
    one_thread,
)
from service.engine.steps import Steps
from service.errors import NotReadyError

CUDA_BATCH_SIZES = (1, 8, 32, 128, 256)

logger = logging.getLogger(__name__)


class CudaEncoder(CpuEncoder):
    """The encoder on a GPU in a few fixed shapes, each recorded as a CUDA graph if possible.

    Dynamic shapes cost 2 ms whatever the batch, a recorded graph 0.3 ms at batch 1. Tables lie on
    the GPU, shared by all shapes.

    Args:
        lane: In which it is used.

    Attributes:
        shapes: By size, those that also make what the comment head reads.
    """

    device = "cuda"

    def __init__(self, bundle: Bundle, lane: Lane, *, max_batch: int) -> None:
        larger = [size for size in CUDA_BATCH_SIZES if size >= max_batch]
        largest = larger[0] if larger else CUDA_BATCH_SIZES[-1]
        self.batch_sizes = tuple(size for size in CUDA_BATCH_SIZES if size <= largest)
        self._lane = lane
        super().__init__(bundle)

    @property
    def largest(self) -> int:
        """Users that are encoded together, at most."""
        return self.batch_sizes[-1]

    def encode_in_steps(self, history: HistoryBatch, *, with_states: bool) -> Steps[Encoding]:
        """As `CpuEncoder.encode_in_steps`; more than the largest shape takes one after another."""
        encodings = []
        for start in range(0, len(history.video_BI), self.largest):
            part = history.take(slice(start, start + self.largest))
            encodings.append((yield from self._lane.take(self._encode_part(part, with_states))))
        return Encoding.join(encodings)

    def launch(
        self, history: HistoryBatch, *, for_comments: bool, with_states: bool
    ) -> "CudaShape":
        """Begin to encode at most `largest` users, in a turn of the lane.

        Args:
            for_comments: Whether what the comment head reads is to be there, on the GPU.
            with_states: Whether it is to come back.
        """
        shapes = self.shapes if for_comments or with_states else self._video_shapes
        users = len(history.video_BI)
        shape = shapes[next(size for size in self.batch_sizes if size >= users)]
        shape.launch(history, self._lane.stream, with_states=with_states)
        return shape

    def describe(self) -> dict[str, object]:
        """Where and how the encoder runs, for the service's status."""
        shapes = {
            size: shape.is_recorded and self._video_shapes[size].is_recorded
            for size, shape in self.shapes.items()
        }
        first = next(iter(self.shapes.values()))
        return {
            "device": self.device,
            "providers": first.graph.session.get_providers(),
            "cuda_graph_by_batch_size": shapes,
        }

    def let_go(self) -> None:
        """As `CpuEncoder.let_go`: each session by itself, as all of them take 50 ms."""
        for held in (self.shapes, self._video_shapes, self._on_gpu):
            while held:
                with turns.prepare(), beside_no_recording():
                    held.popitem()

    def _encode_part(self, history: HistoryBatch, with_states: bool) -> Steps[Encoding]:
        shape = self.launch(history, for_comments=with_states, with_states=with_states)
        yield from self._lane.end()
        return shape.read(history)

    def _open_encoder(self, folder: Path) -> None:
        slots = self._bundle.manifest.max_history + 1
        self._on_gpu = {name: put_on_gpu(table) for name, table in self._tables.items()}
        one = self._bundle.golden.history.take(slice(1))
        width = self._bundle.manifest.width
        whole, part = (folder / name for name in (HALF_GRAPH, HALF_VIDEOS_GRAPH))
        if not whole.exists():  # as in bundles of versions that had no such graphs
            whole = part = folder / ENCODER_GRAPH
        self.shapes, self._video_shapes = (
            {
                size: _open_shape(path, outputs, one, self._on_gpu, (size, slots, width))
                for size in self.batch_sizes
            }
            for path, outputs in ((whole, ENCODER_OUTPUTS), (part, VIDEO_OUTPUTS))
        )


class CudaShape:
    """One session for one batch size: every input and output has its fixed place on the GPU.

    Inputs lie behind one another in one piece of memory and so do outputs: each copy to or from a
    GPU takes some 20 µs, however little is copied.

    Args:
        outputs: Those of the graph that are wanted.
        example: A history with the extents that all have.
        shape: Users, slots of either side and width: B, S, D.

    Attributes:
        size: B.
        graph: As the runtime has it.
        places: Shape and address of the comment head's inputs there: what was launched last.
    """

    def __init__(
        self,
        path: Path,
        outputs: Sequence[str],
        example: HistoryBatch,
        tables: dict[str, GpuArray],
        shape: tuple[int, int, int],
    ) -> None:
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
        self.size = batch
        self.graph = OpenGraph(path, options)
        expect_outputs(self.graph.session, outputs, path.name)
        binding = self.graph.session.io_binding()
        for name, table in tables.items():
            table.bind_to(binding, name)
        self._history = JoinedArrays(
            {name: (batch, slots, *a.shape[2:]) for name, a in example.arrays().items()}, np.int32
        )
        for name, place in self._history.places.items():
            binding.bind_input(name, "cuda", 0, np.int32, *place)
        extents = {
            "video_preference": (batch, width),
            "video_share": (batch, slots),
            "comment_state": (batch, slots, width),
        }
        self._outputs = JoinedArrays({name: extents[name] for name in outputs}, np.float32)
        for name, place in self._outputs.places.items():
            binding.bind_output(name, "cuda", 0, np.float32, *place)
        self.places = {**self._history.places, **self._outputs.places}
        self._padded = HistoryBatch(*self._history.arrays.values())
        self._has_states = False
        self._recorded = self.graph.record(binding)  # of empty histories

    @property
    def is_recorded(self) -> bool:
        """Whether it is launched as a CUDA graph."""
        return self._recorded.recorded is not None

    def launch(self, history: HistoryBatch, stream: Stream, *, with_states: bool) -> None:
        """Begin to encode at most B users."""
        history.pad_into(self._padded)
        stream.copy_to_gpu(self._history.content, self._history.on_gpu)
        stream.launch(self._recorded)
        self._has_states = with_states
        fetched = ENCODER_OUTPUTS if with_states else VIDEO_OUTPUTS
        stream.copy_from_gpu(self._outputs.on_gpu, self._outputs.first(len(fetched)))

    def read(self, history: HistoryBatch) -> Encoding:
        """What became of the histories that were launched, once the stream is idle."""
        users, slots = history.video_BI.shape
        outputs = self._outputs.arrays
        preference_BD = outputs["video_preference"][:users].copy()
        share_BI = outputs["video_share"][:users, :slots].copy()
        if not self._has_states:
            state_BJD = np.empty((users, 0, preference_BD.shape[1]), np.float32)
            return Encoding(preference_BD, share_BI, state_BJD)
        state_BJD = outputs["comment_state"][:users, : history.comment_BJK.shape[1]].copy()
        return Encoding(preference_BD, share_BI, state_BJD)


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
) -> CudaShape:
    try:
        return CudaShape(path, outputs, example, tables, shape)
    except LsvcrError:
        raise
    except Exception as error:  # the runtime has a class of its own for each failure
        logger.warning("%s at batch %d: %s", path.name, shape[0], error)
        raise NotReadyError("device cuda: the encoder does not run there") from error
