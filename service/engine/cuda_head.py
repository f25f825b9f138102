"""The comment head on an NVIDIA GPU, for one target of each user, behind the encoder.

It reads what the encoder wrote there, in the same lane: neither has to come here in between.

Shape suffixes: A users, J comment slots, D width, X of a target and one number more.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lsvcr.bundle import ONE_TARGET_HEAD_GRAPH
from lsvcr.history import HistoryBatch
from service.engine.cuda_encoder import CudaEncoder, CudaShape
from service.engine.cuda_memory import GpuArray, JoinedArrays, pinned, put_on_gpu, turns
from service.engine.cuda_stream import OpenGraph, RecordedGraph, Stream, beside_no_recording
from service.engine.encoder_session import HEAD_OUTPUTS, FloatArray, expect_outputs, one_thread
from service.engine.first_look import CommentLook

Read = Callable[[HistoryBatch], tuple[FloatArray, FloatArray]]
"""From the histories that were encoded: `preference_AD` and `share_AJ`, as `CommentHead.read`."""

_FROM_ENCODER = ("comment_state", "comment_last", "video_preference")


class CudaHead:
    """Recorded as a CUDA graph behind each of the encoder's shapes.

    Args:
        folder: Of the bundle.
        encoder: Which has its lane in common with it.
        width: D.

    Raises:
        NotReadyError: If it doesn't run there.
    """

    def __init__(self, folder: Path, encoder: CudaEncoder, width: int) -> None:
        options = one_thread()
        options.enable_mem_pattern = False  # which is of one shape
        self._graph = OpenGraph(folder / ONE_TARGET_HEAD_GRAPH, options)
        expect_outputs(self._graph.session, HEAD_OUTPUTS, ONE_TARGET_HEAD_GRAPH)
        self._aim = pinned((encoder.largest, width + 1), np.float32)
        self._aim_there = put_on_gpu(self._aim)
        # The largest first: others then take what memory it took.
        sizes = sorted(encoder.shapes, reverse=True)
        self._behind = {
            size: _Behind(self._graph, encoder.shapes[size], self._aim_there) for size in sizes
        }

    @staticmethod
    def can_read(folder: Path) -> bool:
        """Whether a bundle has the graph, as older ones haven't."""
        return (folder / ONE_TARGET_HEAD_GRAPH).exists()

    def launch_behind(self, shape: CudaShape, look: CommentLook, stream: Stream) -> Read:
        """Begin to read what is being encoded, in the same turn of the lane.

        Returns:
            What reads it when the stream is idle.
        """
        behind = self._behind[shape.size]
        self._aim[look.users] = look.target_AX
        stream.copy_to_gpu(self._aim[: shape.size], self._aim_there)
        stream.launch(behind.recorded)
        stream.copy_from_gpu(behind.outputs.on_gpu, behind.outputs.content)
        return partial(behind.read, look.users)

    def let_go(self) -> None:
        """Free what is held there."""
        with turns.prepare(), beside_no_recording():
            self._behind.clear()
            del self._graph


class _Behind:
    """The head behind one of the encoder's shapes."""

    def __init__(self, graph: OpenGraph, shape: CudaShape, aim: GpuArray) -> None:
        _, slots, width = shape.places["comment_state"][0]
        self.outputs = JoinedArrays(
            dict(zip(HEAD_OUTPUTS, [(shape.size, 1, width), (shape.size, 1, slots)], strict=True)),
            np.float32,
        )
        binding = graph.session.io_binding()
        for name in _FROM_ENCODER:
            kind = np.int32 if name == "comment_last" else np.float32
            binding.bind_input(name, "cuda", 0, kind, *shape.places[name])
        binding.bind_input("aim", "cuda", 0, np.float32, (shape.size, width + 1), aim.address)
        for name, place in self.outputs.places.items():
            binding.bind_output(name, "cuda", 0, np.float32, *place)
        self.recorded: RecordedGraph = graph.record(binding)

    def read(self, users: list[int], history: HistoryBatch) -> tuple[FloatArray, FloatArray]:
        """What was said of some of the users."""
        preference_B1D, share_B1J = self.outputs.arrays.values()
        slots = history.comment_last_BJ.shape[1]
        return preference_B1D[users, 0], share_B1J[users, 0, :slots]
