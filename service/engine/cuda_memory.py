"""Copies to and from a GPU that leave Python's lock to others.

ONNX Runtime's own copies keep it: a table of two gigabytes would silence the whole process for half
a second, and each batch's outputs for as long as the GPU is at work for others.
"""

import ctypes
import functools
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


def put_on_gpu(array: NDArray[Any]) -> Any:
    """A copy there, as an `OrtValue`.

    Raises:
        NotReadyError: If there is no GPU, or no memory on it.
    """
    array = np.ascontiguousarray(array)
    try:
        value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, "cuda", 0)
    except Exception as error:  # no driver, no free memory, …
        raise NotReadyError("device cuda: the tables cannot be put there") from error
    copy_to_gpu(array, value)
    return value


def copy_to_gpu(array: NDArray[Any], value: Any) -> None:
    """Overwrite what lies there; `array` is contiguous and of the same size."""
    for start in range(0, array.nbytes, _PIECE_BYTES):
        size = min(_PIECE_BYTES, array.nbytes - start)
        _copy(value.data_ptr() + start, array.ctypes.data + start, size, _TO_GPU)


def copy_from_gpu(value: Any, array: NDArray[Any]) -> None:
    """Overwrite `array`, which is contiguous and of the same size."""
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
