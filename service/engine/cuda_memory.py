"""Memory of a GPU, copies to and from it, and turns to record graphs in.

Large copies leave Python's lock to others, and so does taking memory: ONNX Runtime's own ways keep
it, and some gigabytes would silence the whole process for a tenth of a second or more. Small copies
take less time than a thread then waits to have the lock again, while others are at work.
"""

import contextlib
import ctypes
import functools
import math
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from service.engine.encoder_session import open_session
from service.errors import NotReadyError

_TO_GPU, _FROM_GPU, _ON_GPU = 1, 2, 3
_PIECE_BYTES, _LARGE_PIECE_BYTES = 2 << 20, 64 << 20
"""Copied at once while somebody is answered, and else: what a batch copies waits for that of
others, and between two pieces a thread may wait long for Python's lock."""
_SMALL_BYTES = 1 << 18
"""Copied with the lock held: 128 users' inputs; some 50 µs at most."""
_LATELY_S, _LONGEST_PAUSE_S = 0.1, 0.005
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
"""The runtime that ONNX Runtime itself uses is loaded already."""


class Turns:
    """Many use a GPU at a time, or one records a graph.

    While CUDA records, whatever another thread of the process allocates or copies fails, and so
    does the recording. A use must not begin within another one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._answering = 0
        self._preparing = 0
        self._is_wanted = False
        self._is_recording = False
        self._answered_s = 0.0

    @property
    def answered_lately(self) -> bool:
        """Whether somebody was answered lately."""
        return time.monotonic() - self._answered_s < _LATELY_S

    @contextlib.contextmanager
    def answer(self) -> Iterator[None]:
        """Use the GPU for somebody who waits, after a graph that is being recorded."""
        self._answered_s = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: not self._is_recording)
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def prepare(self) -> Iterator[None]:
        """Use it for what nobody waits for yet: then pause as long, where others are answered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_wanted)
            self._preparing += 1
        started_s = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._preparing -= 1
                self._changed.notify_all()
        if self.answered_lately:
            time.sleep(min(time.monotonic() - started_s, _LONGEST_PAUSE_S))

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Let nobody begin, and wait for those that have.

        First for what is prepared, which may take long, as others are answered meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_wanted)
            self._is_wanted = True
            self._changed.wait_for(lambda: not self._preparing)
            self._is_recording = True
            self._changed.wait_for(lambda: not self._answering)
        try:
            yield
        finally:
            with self._changed:
                self._is_wanted = self._is_recording = False
                self._changed.notify_all()


turns = Turns()
"""Of this process: bundles are opened while others answer."""


def open_on_gpu(graph: Path, options: Any, **cuda: str) -> Any:
    """Open a graph there, in a turn.

    Args:
        options: Of the session.
        cuda: Further ones, of the runtime's part for CUDA.

    Raises:
        BundleError: If it cannot be opened.
        NotReadyError: If it would run on the CPU.
    """
    provider = ("CUDAExecutionProvider", {"device_id": 0, **cuda})
    with turns.prepare():
        session = open_session(graph, options, [provider])
    if "CUDAExecutionProvider" not in session.get_providers():
        raise NotReadyError(f"device cuda: {graph.name} fell back to the CPU")
    return session


def record_graph(session: Any, binding: Any) -> None:
    """Run a session until the runtime has captured its graph, which it does in one call.

    A first run takes memory and loads kernels, for longer than all the rest; others go on.

    Args:
        session: Opened with `enable_cuda_graph`; its graph belongs to the calling thread.
        binding: What it reads and writes, in fixed places with valid content.
    """
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")  # captures nothing
    with turns.prepare():
        session.run_with_iobinding(binding, options)
    with turns.record():
        session.run_with_iobinding(binding)


class GpuArray:
    """An array there, of any content, in memory that is its own and goes with it.

    That had better happen in a turn, where graphs may be recorded.

    Attributes:
        address: Of its first byte.

    Raises:
        NotReadyError: If there is no GPU, or no memory on it.
    """

    def __init__(self, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        place = ctypes.c_void_p()
        size = max(1, math.prod(self.shape) * self.dtype.itemsize)
        with turns.prepare():
            status = _runtime().cudaMalloc(ctypes.byref(place), size)
            if status:  # else the next kernel, whoever's, would fail with it
                _runtime().cudaGetLastError()
        if status or place.value is None:
            raise NotReadyError(f"device cuda: no place for {size} bytes there (status {status})")
        self.address: int = place.value
        weakref.finalize(self, _runtime().cudaFree, place).atexit = False

    def bind_to(self, binding: Any, name: str) -> None:
        """Let a graph read it as one of its inputs; whoever binds it keeps it."""
        binding.bind_input(name, "cuda", 0, self.dtype.type, self.shape, self.address)


def put_on_gpu(array: NDArray[Any]) -> GpuArray:
    """A copy there; raises as `GpuArray`."""
    array = np.ascontiguousarray(array)
    copy = GpuArray(array.shape, array.dtype)
    copy_in_pieces(array, copy)
    return copy


def copy_in_pieces(array: NDArray[Any], to: GpuArray) -> None:
    """Overwrite what lies there, in many turns; `array` is contiguous and no larger."""
    start = 0
    while start < array.nbytes:
        piece = _PIECE_BYTES if turns.answered_lately else _LARGE_PIECE_BYTES
        size = min(piece, array.nbytes - start)
        with turns.prepare():
            _copy(to.address + start, array.ctypes.data + start, size, _TO_GPU)
        start += size


def copy_to_gpu(array: NDArray[Any], to: GpuArray) -> None:
    """Overwrite what lies there, in a turn of the caller's; `array` is contiguous and no larger."""
    _copy(to.address, array.ctypes.data, array.nbytes, _TO_GPU)


def copy_column_to_gpu(array_N: NDArray[Any], to: GpuArray, column: int, way: GpuArray) -> None:
    """Overwrite one column of a table that lies there, from its first row on, likewise.

    Args:
        way: Where the array lies meanwhile, no smaller than it: only on the GPU itself columns are
            copied fast.
    """
    copy_to_gpu(array_N, way)
    size, width = array_N.itemsize, to.shape[1]
    target = to.address + column * size
    copying = target, width * size, way.address, size, size, len(array_N), _ON_GPU
    _done(_runtime(), _runtime().cudaMemcpy2D(*copying), array_N.nbytes)


def copy_from_gpu(there: GpuArray, array: NDArray[Any]) -> None:
    """Overwrite `array`, likewise."""
    _copy(array.ctypes.data, there.address, array.nbytes, _FROM_GPU)


def _copy(target: int, source: int, size: int, kind: int) -> None:
    library = _locking_runtime() if size <= _SMALL_BYTES else _runtime()
    _done(library, library.cudaMemcpy(target, source, size, kind), size)


def _done(library: ctypes.CDLL, status: int, size: int) -> None:
    status = status or library.cudaStreamSynchronize(None)  # it may still be on its way
    if status:
        raise RuntimeError(f"copying {size} bytes to or from the GPU failed with {status}")


@functools.cache
def _runtime() -> ctypes.CDLL:
    """CUDA's runtime library; calls let go of Python's lock."""
    return _open(ctypes.CDLL)


@functools.cache
def _locking_runtime() -> ctypes.CDLL:
    """The same; calls keep the lock."""
    return _open(ctypes.PyDLL)


def _open(calling: type[ctypes.CDLL]) -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = calling(name)
        except OSError:
            continue
        place, size, kind = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        library.cudaMemcpy.argtypes = [place, place, size, kind]
        library.cudaMemcpy2D.argtypes = [place, size, place, size, size, size, kind]
        library.cudaStreamSynchronize.argtypes = [place]
        library.cudaMalloc.argtypes = [ctypes.POINTER(place), size]
        library.cudaFree.argtypes = [place]
        return library
    raise NotReadyError("device cuda: the CUDA runtime library cannot be found")
