"""Graphs of ONNX Runtime recorded as CUDA graphs, and streams in which a GPU does them in order.

The runtime's own CUDA graphs belong to the thread that recorded them, wait for their end, and while
one is recorded nobody else in the process may use the GPU. Here a run of the runtime is recorded as
CUDA offers it: any thread launches it, in any stream, and goes on.
"""

import collections
import contextlib
import ctypes
import enum
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from lsvcr.errors import BundleError
from service.engine.cuda_memory import TO_GPU, GpuArray, locking_runtime, runtime, turns
from service.engine.encoder_session import open_session
from service.engine.steps import ResultT, Steps
from service.errors import NotReadyError

ATTEMPTS = 5
"""To record a graph: now and then what another thread does at the same moment spoils one."""

_BESIDE_OTHERS = 1
"""A stream that waits for nobody (`cudaStreamNonBlocking`)."""
_THIS_THREAD = 1
"""While a graph is recorded other threads do as they like (`cudaStreamCaptureModeThreadLocal`)."""
_NO_DEVICE, _NOT_READY = 100, 600
_FROM_GPU, _ON_GPU = 2, 3

logger = logging.getLogger(__name__)


class Stream:
    """Copies and graphs that a GPU does one after another; whoever asks for one goes on meanwhile.

    Arrays of this process that are copied to or from are `pinned`, and left alone until the stream
    is idle.

    Attributes:
        address: Of CUDA's own.

    Raises:
        NotReadyError: If there is no GPU.
    """

    def __init__(self) -> None:
        place = ctypes.c_void_p()
        status = runtime().cudaStreamCreateWithFlags(ctypes.byref(place), _BESIDE_OTHERS)
        if status == _NO_DEVICE:
            which = os.environ.get("CUDA_VISIBLE_DEVICES")  # as `--gpus` sets it
            named = f"no GPU {which}, counted from 0" if which else "no GPU"
            raise NotReadyError(f"device cuda: there is {named}")
        if status or place.value is None:
            raise NotReadyError(f"device cuda: no stream (status {status})")
        self.address: int = place.value
        self._library = locking_runtime()
        weakref.finalize(self, runtime().cudaStreamDestroy, place).atexit = False

    @property
    def is_idle(self) -> bool:
        """Whether all is done that was asked for; raises RuntimeError if some of it failed."""
        status = self._library.cudaStreamQuery(self.address)
        if status == _NOT_READY:
            self._library.cudaGetLastError()  # else the runtime takes it for its own next failure
            return False
        _expect_success(status, "what the GPU did")
        return True

    def wait(self) -> None:
        """Wait until it is, without Python's lock."""
        _expect_success(runtime().cudaStreamSynchronize(self.address), "waiting for the GPU")

    def copy_to_gpu(self, array: NDArray[Any], to: GpuArray) -> None:
        """Overwrite what lies there; `array` is no larger."""
        self._copy(to.address, array.ctypes.data, array.nbytes, TO_GPU)

    def copy_from_gpu(self, there: GpuArray, array: NDArray[Any]) -> None:
        """Overwrite `array`, which is no larger."""
        self._copy(array.ctypes.data, there.address, array.nbytes, _FROM_GPU)

    def copy_columns(
        self, source: int, target: int, *, rows: int, widths: tuple[int, int], size: int
    ) -> None:
        """Copy a part of each row of one table there to another one.

        Args:
            source, target: Where the first row's part is, and is to be.
            widths: Of a row of either, in bytes.
            size: Of a part, in bytes.
        """
        width, wide = widths
        columns = target, wide, source, width, size, rows, _ON_GPU, self.address
        _expect_success(self._library.cudaMemcpy2DAsync(*columns), "copying on the GPU")

    def launch(self, graph: "RecordedGraph") -> None:
        """Do what was recorded once more."""
        if graph.recorded is None:
            self.wait()
            graph.run()
            return
        status = self._library.cudaGraphLaunch(graph.recorded, self.address)
        _expect_success(status, "launching a graph")

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        status = self._library.cudaMemcpyAsync(target, source, size, kind, self.address)
        _expect_success(status, "copying to or from the GPU")


class Lane:
    """A stream, and who uses it, with the arrays that go with it, one after another."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._takers: collections.deque[object] = collections.deque()

    def take(self, steps: Steps[ResultT]) -> Steps[ResultT]:
        """Do some steps in turn, alone: behind those that came before, and what these left."""
        turns.answer()
        taker = object()
        self._takers.append(taker)
        try:
            while self._takers[0] is not taker or not self.stream.is_idle:
                yield self.stream.wait
            return (yield from steps)
        finally:
            self._takers.remove(taker)

    def end(self) -> Steps[None]:
        """Come back when the stream has done all."""
        while not self.stream.is_idle:
            yield self.stream.wait


class Work(enum.Enum):
    """What excludes one another."""

    OPENING, RECORDING = enum.auto(), enum.auto()


class Rooms:
    """Two kinds of work, any number of threads at a time at either, but never at both.

    While something is recorded, whatever waits for the whole GPU fails, and spoils the recording:
    a session does so that is being opened or closed, and libraries where they are used first.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = collections.Counter[Work]()

    @contextlib.contextmanager
    def enter(self, work: Work) -> Iterator[None]:
        """Wait until nobody is at the other kind."""
        others = [other for other in Work if other is not work]
        with self._changed:
            self._changed.wait_for(lambda: not any(self._inside[other] for other in others))
            self._inside[work] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[work] -= 1
                self._changed.notify_all()


_rooms = Rooms()
"""Of this process."""


def beside_no_recording() -> contextlib.AbstractContextManager[None]:
    """Open or close something, which waits for the whole GPU."""
    return _rooms.enter(Work.OPENING)


class OpenGraph:
    """A graph that the runtime has opened on the GPU, in a stream of its own.

    Args:
        options: Of the session.

    Raises:
        NotReadyError: If it cannot be opened there, as without memory, or would run on the CPU.
    """

    def __init__(self, path: Path, options: Any) -> None:
        self.name = path.name
        self._stream = Stream()
        # Memory is taken as it is needed, not twice as much each time: it is as much at each run.
        provider = {
            "device_id": 0,
            "user_compute_stream": str(self._stream.address),
            "arena_extend_strategy": "kSameAsRequested",
        }
        try:
            with turns.prepare(), beside_no_recording():
                self.session = open_session(path, options, [("CUDAExecutionProvider", provider)])
        except BundleError as error:
            raise NotReadyError(f"device cuda: {path.name} cannot be opened there") from error
        if "CUDAExecutionProvider" not in self.session.get_providers():
            raise NotReadyError(f"device cuda: {path.name} fell back to the CPU")

    def run(self, binding: Any) -> None:
        """Run it, and wait for its end."""
        self.session.run_with_iobinding(binding)
        self._stream.wait()

    def record(self, binding: Any) -> "RecordedGraph":
        """Run it as `binding` says, with valid content, and record the same once more.

        What the run takes of the runtime's memory others of this graph's recordings take, too: they
        are launched one after another.
        """
        for _ in range(2):  # takes memory and loads kernels; the second one as each that follows
            with turns.prepare(), beside_no_recording():
                self.run(binding)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with turns.prepare(), _rooms.enter(Work.RECORDING):
                    return RecordedGraph(self, binding, self._record(binding))
            except Exception as error:  # the runtime has a class of its own for each failure
                logger.info("recording %s, attempt %d: %s", self.name, attempt, error)
        logger.warning("%s runs without a CUDA graph", self.name)
        return RecordedGraph(self, binding, None)

    def _record(self, binding: Any) -> ctypes.c_void_p:
        library, graph, recorded = runtime(), ctypes.c_void_p(), ctypes.c_void_p()
        with self._capturing(graph):
            self.session.run_with_iobinding(binding, _unsynchronised())
        status = library.cudaGraphInstantiate(ctypes.byref(recorded), graph, 0)
        library.cudaGraphDestroy(graph)
        _expect_success(status, "recording a graph")
        return recorded

    @contextlib.contextmanager
    def _capturing(self, graph: ctypes.c_void_p) -> Iterator[None]:
        library = runtime()
        begun = library.cudaStreamBeginCapture(self._stream.address, _THIS_THREAD)
        _expect_success(begun, "recording a graph")
        try:
            yield
        finally:  # whatever went wrong: the stream does nothing else until then
            ended = library.cudaStreamEndCapture(self._stream.address, ctypes.byref(graph))
            library.cudaGetLastError()
        _expect_success(ended, "recording a graph")


class RecordedGraph:
    """One run of a graph with fixed places for all that it reads and writes.

    Attributes:
        recorded: CUDA's graph; None where it couldn't be recorded, and is run each time.
    """

    def __init__(self, opened: OpenGraph, binding: Any, recorded: ctypes.c_void_p | None) -> None:
        self._opened = opened
        self._binding = binding
        self.recorded = recorded
        if recorded is not None:
            weakref.finalize(self, runtime().cudaGraphExecDestroy, recorded).atexit = False

    def run(self) -> None:
        """Do it now, and wait for its end."""
        self._opened.run(self._binding)


def _unsynchronised() -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _expect_success(status: int, doing: str) -> None:
    if status:
        raise RuntimeError(f"{doing} failed with {status}")
