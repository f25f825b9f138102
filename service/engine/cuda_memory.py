"""Memory of a GPU, copies to and from it, and pauses for those who are answered there.

Large copies leave Python's lock to others, and so does taking memory: ONNX Runtime's own ways keep
it, and some gigabytes would silence the whole process for a tenth of a second or more.
"""

import contextlib
import ctypes
import functools
import math
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from service.errors import NotReadyError

TO_GPU = 1
"""A kind of copy, in the runtime's words."""
_PIECE_BYTES, _LARGE_PIECE_BYTES = 2 << 20, 64 << 20
"""Copied at once while somebody is answered, and else: what a batch copies waits for that of
others, and between two pieces a thread may wait long for Python's lock."""
_ALIGNED = 64
"""Numbers: arrays begin at multiples of 256 bytes, as those that CUDA itself hands out."""
_LATELY_S, _LONGEST_PAUSE_S = 0.1, 0.005
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
"""The runtime that ONNX Runtime itself uses is loaded already."""


class Turns:
    """Whoever prepares something on a GPU gives way to those who are answered there."""

    def __init__(self) -> None:
        self._answered_s = -math.inf

    @property
    def answered_lately(self) -> bool:
        """Whether somebody was answered lately."""
        return time.monotonic() - self._answered_s < _LATELY_S

    def answer(self) -> None:
        """Somebody is being answered."""
        self._answered_s = time.monotonic()

    @contextlib.contextmanager
    def prepare(self) -> Iterator[None]:
        """Use it for what nobody waits for yet: then pause as long, where others are answered."""
        started_s = time.monotonic()
        yield
        if self.answered_lately:
            time.sleep(min(time.monotonic() - started_s, _LONGEST_PAUSE_S))


turns = Turns()
"""Of this process: bundles are opened while others answer."""


class GpuArray:
    """An array there, of any content, in memory that is its own and goes with it.

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
            status = runtime().cudaMalloc(ctypes.byref(place), size)
            if status:  # else the next kernel, whoever's, would fail with it
                runtime().cudaGetLastError()
        if status or place.value is None:
            raise NotReadyError(f"device cuda: no place for {size} bytes there (status {status})")
        self.address: int = place.value
        weakref.finalize(self, runtime().cudaFree, place).atexit = False

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
    """Overwrite what lies there, piece by piece; `array` is contiguous and no larger."""
    start = 0
    while start < array.nbytes:
        piece = _PIECE_BYTES if turns.answered_lately else _LARGE_PIECE_BYTES
        size = min(piece, array.nbytes - start)
        with turns.prepare():
            _copy_to_gpu(array.ctypes.data + start, to.address + start, size)
        start += size


def pinned(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros here that a GPU copies to and from by itself; raises as `GpuArray`."""
    dtype = np.dtype(dtype)
    size = max(1, math.prod(shape)) * dtype.itemsize
    place = ctypes.c_void_p()
    status = runtime().cudaHostAlloc(ctypes.byref(place), size, 0)
    if status or place.value is None:
        raise NotReadyError(f"device cuda: no {size} bytes to copy by (status {status})")
    block = (ctypes.c_char * size).from_address(place.value)
    weakref.finalize(block, runtime().cudaFreeHost, place).atexit = False
    array: NDArray[Any] = np.ndarray(tuple(shape), dtype, memoryview(block))
    array[...] = 0
    return array


class JoinedArrays:
    """Arrays of zeros of one type behind one another in one piece of memory, here and on the GPU.

    Each copy to or from a GPU takes some 20 µs, however little is copied.

    Attributes:
        content: All of them here, to copy from or to; pinned.
        arrays: Views of it.
        on_gpu: All of them there.
        places: Each array's shape and address there.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], kind: type[np.number[Any]]) -> None:
        end, starts = 0, list[int]()
        for shape in shapes.values():
            starts.append(end)
            end += -(-math.prod(shape) // _ALIGNED) * _ALIGNED
        self._ends = [*starts[1:], end]
        self.content = pinned((end,), kind)
        self.on_gpu = put_on_gpu(self.content)
        address, item_bytes = self.on_gpu.address, self.content.itemsize
        self.arrays, self.places = {}, {}
        for start, (name, shape) in zip(starts, shapes.items(), strict=True):
            self.arrays[name] = self.content[start : start + math.prod(shape)].reshape(shape)
            self.places[name] = shape, address + start * item_bytes

    def first(self, count: int) -> NDArray[Any]:
        """The part of `content` that holds the first arrays."""
        return self.content[: self._ends[count - 1]]


def _copy_to_gpu(source: int, target: int, size: int) -> None:
    status = runtime().cudaMemcpy(target, source, size, TO_GPU)
    status = status or runtime().cudaStreamSynchronize(None)  # it may still be on its way
    if status:
        raise RuntimeError(f"copying {size} bytes to the GPU failed with {status}")


@functools.cache
def runtime() -> ctypes.CDLL:
    """CUDA's runtime library; calls let go of Python's lock."""
    return _open(ctypes.CDLL)


@functools.cache
def locking_runtime() -> ctypes.CDLL:
    """The same; calls keep the lock: most take less time than a thread then waits to have it again.

    Raises:
        NotReadyError: If it cannot be found; `runtime` likewise.
    """
    return _open(ctypes.PyDLL)


def _open(calling: type[ctypes.CDLL]) -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = calling(name)
        except OSError:
            continue
        place, size, kind = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        places = ctypes.POINTER(place)
        library.cudaMemcpy.argtypes = [place, place, size, kind]
        library.cudaMemcpyAsync.argtypes = [place, place, size, kind, place]
        library.cudaMemcpy2DAsync.argtypes = [place, size, place, size, size, size, kind, place]
        library.cudaMalloc.argtypes = [places, size]
        library.cudaFree.argtypes = [place]
        library.cudaDeviceGetAttribute.argtypes = [ctypes.POINTER(kind), kind, kind]
        library.cudaHostAlloc.argtypes = [places, size, ctypes.c_uint]
        library.cudaFreeHost.argtypes = [place]
        library.cudaStreamCreateWithFlags.argtypes = [places, ctypes.c_uint]
        library.cudaStreamDestroy.argtypes = [place]
        library.cudaStreamQuery.argtypes = [place]
        library.cudaStreamSynchronize.argtypes = [place]
        library.cudaStreamBeginCapture.argtypes = [place, kind]
        library.cudaStreamEndCapture.argtypes = [place, places]
        library.cudaGraphInstantiate.argtypes = [places, place, ctypes.c_ulonglong]
        library.cudaGraphLaunch.argtypes = [place, place]
        library.cudaGraphDestroy.argtypes = [place]
        library.cudaGraphExecDestroy.argtypes = [place]
        return library
    raise NotReadyError("device cuda: the CUDA runtime library cannot be found")
