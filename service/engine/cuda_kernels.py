"""Functions of our own on an NVIDIA GPU: compiled for the one that is there, launched in a stream.

The compiler is NVRTC, which belongs to CUDA's libraries; half a second for a file.
"""

import contextlib
import ctypes
import functools
import importlib.util
import logging
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.engine.cuda_memory import runtime
from service.engine.cuda_stream import Stream, beside_no_recording
from service.errors import NotReadyError

NUMBER, PLACE, PART = ctypes.c_int, ctypes.c_ulonglong, ctypes.c_float
"""Kinds of arguments: an int, an address on the GPU, a float."""
Numbers = tuple[tuple[str, int], ...]
"""Macros: names and values."""

HEADER = Path(__file__).with_name("cuda_ptx.h")

_COMPILERS = ("libnvrtc.so.13", "libnvrtc.so.12")
_DRIVER = "libcuda.so.1"
_MAJOR, _MINOR, _SHARED_BYTES, _PROCESSORS = 75, 76, 97, 16
"""Attributes of a device (`cudaDeviceAttr`)."""
_DYNAMIC_SHARED_BYTES = 8
"""An attribute of a function (`CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`)."""

logger = logging.getLogger(__name__)


class Gpu:
    """What the first GPU is.

    Attributes:
        architecture: As compilers call it: 90 is an H100's.
        shared_bytes: That a block of threads may have.
        processors: Which work side by side.
    """

    def __init__(self) -> None:
        major, minor = _attribute(_MAJOR), _attribute(_MINOR)
        self.architecture = 10 * major + minor
        self.shared_bytes = _attribute(_SHARED_BYTES)
        self.processors = _attribute(_PROCESSORS)


class Kernels:
    """A source file's functions, loaded on the GPU.

    Args:
        source: A file in CUDA C++ that includes nothing but `HEADER`.
        numbers: That it is told.

    Raises:
        NotReadyError: If there is no compiler or no GPU, or one doesn't know the other.
    """

    def __init__(self, source: Path, numbers: Numbers, gpu: Gpu) -> None:
        program = compile_for(source, numbers, gpu.architecture)
        module = ctypes.c_void_p()
        runtime().cudaFree(None)  # the runtime's context is this thread's from now on
        with beside_no_recording():
            status = _driver().cuModuleLoadData(ctypes.byref(module), program)
        if status:
            raise NotReadyError(f"device cuda: {source.name} cannot be loaded there ({status})")
        self._module = module
        self._close = weakref.finalize(self, _unload, module)
        self._close.atexit = False

    def function(
        self, name: str, kinds: Sequence[Any], *, threads: int, shared_bytes: int = 0
    ) -> "Kernel":
        """One of them.

        Args:
            kinds: Of its arguments: `NUMBER`, `PLACE` or `PART`.
            threads: Of a block.
            shared_bytes: That a block has besides those it declares itself.
        """
        function = ctypes.c_void_p()
        status = _driver().cuModuleGetFunction(ctypes.byref(function), self._module, name.encode())
        if not status and shared_bytes:
            attribute = function, _DYNAMIC_SHARED_BYTES, shared_bytes
            status = _driver().cuFuncSetAttribute(*attribute)
        if status:
            raise NotReadyError(f"device cuda: {name} cannot be used there (status {status})")
        return Kernel(self, function, kinds, threads, shared_bytes)

    def let_go(self) -> None:
        """Free what is held there; nothing of it runs any more."""
        with beside_no_recording():
            self._close()


class Kernel:
    """A function there; one caller at a time launches it, in a thread that has used the runtime."""

    def __init__(
        self,
        kernels: Kernels,
        function: ctypes.c_void_p,
        kinds: Sequence[Any],
        threads: int,
        shared_bytes: int,
    ) -> None:
        self._kernels = kernels  # must not be unloaded
        self._function = function
        self._threads, self._shared_bytes = threads, shared_bytes
        self._values = [kind() for kind in kinds]
        places = [ctypes.addressof(value) for value in self._values]
        self._places = (ctypes.c_void_p * len(places))(*places)

    def launch(self, stream: Stream, blocks: tuple[int, int], *arguments: float) -> None:
        """Do it behind all that the stream was asked for."""
        for value, argument in zip(self._values, arguments, strict=True):
            value.value = argument
        across, down = blocks
        shape = across, down, 1, self._threads, 1, 1, self._shared_bytes
        launch = _locking_driver().cuLaunchKernel
        status = launch(self._function, *shape, stream.address, self._places, None)
        if status:
            raise RuntimeError(f"launching a kernel failed with {status}")


@functools.lru_cache(maxsize=16)
def compile_for(source: Path, numbers: Numbers, architecture: int) -> bytes:
    """Machine code for a GPU's architecture; needs no GPU. Bundles mostly have widths in common.

    Raises:
        NotReadyError: If there is no compiler, or it refuses; what it says is logged.
    """
    compiler, program = _compiler(), ctypes.c_void_p()
    # Whatever is said nothing of is the GPU's: not every compiler takes lambdas for that otherwise.
    options = ["--std=c++17", "--device-as-default-execution-space"]
    options.append(f"--gpu-architecture=sm_{architecture}")
    options += [f"-D{name}={number}" for name, number in numbers]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    content, name = source.read_bytes(), source.name.encode()
    header, its_name = ctypes.c_char_p(HEADER.read_bytes()), ctypes.c_char_p(HEADER.name.encode())
    headers = 1, ctypes.byref(header), ctypes.byref(its_name)
    made = compiler.nvrtcCreateProgram(ctypes.byref(program), content, name, *headers)
    if made:
        raise NotReadyError(f"device cuda: {source.name} cannot be compiled (status {made})")
    try:
        status = compiler.nvrtcCompileProgram(program, len(given), given)
        if status:
            said = _take(compiler, "nvrtcGetProgramLog", program).rstrip(b"\0").decode()
            logger.warning("%s: %s", source.name, said)
            reason = f"cannot be compiled for sm_{architecture} (status {status})"
            raise NotReadyError(f"device cuda: {source.name} {reason}")
        return _take(compiler, "nvrtcGetCUBIN", program)
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


def _take(compiler: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    compiler[f"{what}Size"](program, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    compiler[what](program, content)
    return content.raw


def _attribute(number: int) -> int:
    value = ctypes.c_int()
    status = runtime().cudaDeviceGetAttribute(ctypes.byref(value), number, 0)
    if status:
        raise NotReadyError(f"device cuda: the GPU does not say what it is (status {status})")
    return value.value


def _unload(module: ctypes.c_void_p) -> None:
    runtime().cudaFree(None)
    _driver().cuModuleUnload(module)


@functools.cache
def _compiler() -> ctypes.CDLL:
    """What pip installed is on no path, and a part that the compiler asks for by name neither."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for part in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
            for library in Path(folder).glob(f"*/lib/{part}"):
                with contextlib.suppress(OSError):
                    ctypes.CDLL(str(library))
    for name in _COMPILERS:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise NotReadyError("device cuda: CUDA's compiler, libnvrtc, cannot be found")


@functools.cache
def _driver() -> ctypes.CDLL:
    """Calls let go of Python's lock."""
    return _open_driver(ctypes.CDLL)


@functools.cache
def _locking_driver() -> ctypes.CDLL:
    """Calls keep it, as those of `locking_runtime`."""
    return _open_driver(ctypes.PyDLL)


def _open_driver(calling: type[ctypes.CDLL]) -> ctypes.CDLL:
    try:
        library = calling(_DRIVER)
    except OSError as error:
        raise NotReadyError("device cuda: the GPU's driver cannot be found") from error
    place, number = ctypes.c_void_p, ctypes.c_uint
    sizes = [number] * 7
    library.cuLaunchKernel.argtypes = [place, *sizes, place, ctypes.POINTER(place), place]
    return library
