"""Copies to and from a GPU that leave Python's lock to others, and turns to record graphs in.

ONNX Runtime's own copies keep the lock: a table of two gigabytes would silence the whole process
for half a second, and each batch's outputs for as long as the GPU is at work for others.
"""

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import NotReadyError

_TO_GPU, _FROM_GPU = 1, 2
_PIECE_BYTES = 32 << 20
"""Copied at once, so that a batch's inputs don't wait for a whole table."""
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
"""The runtime that ONNX Runtime itself uses is loaded already."""


class Turns:
    """Many use a GPU at a time, or one records a graph.

    While CUDA records, whatever another thread of the process allocates or copies fails, and so
    does the recording. A use must not begin within another one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._is_recording = False

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Wait while a graph is recorded."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_recording)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Let nobody begin, and wait for those that have."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_recording)
            self._is_recording = True
            self._changed.wait_for(lambda: not self._users)
        try:
            yield
        finally:
            with self._changed:
                self._is_recording = False
                self._changed.notify_all()


turns = Turns()
"""Of this process: bundles are opened while others answer."""


def put_on_gpu(array: NDArray[Any]) -> Any:
    """A copy there, as an `OrtValue`.

    Raises:
        NotReadyError: If there is no GPU, or no memory on it.
    """
    array = np.ascontiguousarray(array)
    try:
        with turns.use():
            value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, "cuda", 0)
    except Exception as error:  # no driver, no free memory, …
        raise NotReadyError("device cuda: the tables cannot be put there") from error
    for start in range(0, array.nbytes, _PIECE_BYTES):
        size = min(_PIECE_BYTES, array.nbytes - start)
        with turns.use():
            _copy(value.data_ptr() + start, array.ctypes.data + start, size, _TO_GPU)
    return value


def copy_to_gpu(array: NDArray[Any], value: Any) -> None:
    """Overwrite what lies there, in somebody's turn; `array` is contiguous and of the same size."""
    _copy(value.data_ptr(), array.ctypes.data, array.nbytes, _TO_GPU)


def copy_from_gpu(value: Any, array: NDArray[Any]) -> None:
    """Overwrite `array`, likewise."""
    _copy(array.ctypes.data, value.data_ptr(), array.nbytes, _FROM_GPU)


def _copy(target: int, source: int, size: int, kind: int) -> None:
    copy, wait = _runtime()
    status = copy(target, source, size, kind) or wait(None)  # what was copied may be on its way
    if status:
        raise RuntimeError(f"copying {size} bytes to or from the GPU failed with {status}")


@functools.cache
def _runtime() -> tuple[Any, Any]:
    """`cudaMemcpy` and `cudaStreamSynchronize`; calls through ctypes let go of Python's lock."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        copy, wait = library.cudaMemcpy, library.cudaStreamSynchronize
        copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        wait.argtypes = [ctypes.c_void_p]
        return copy, wait
    raise NotReadyError("device cuda: the CUDA runtime library cannot be found")
