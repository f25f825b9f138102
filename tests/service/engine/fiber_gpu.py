"""A GPU made of fibers on the CPU, which runs the engine's kernels as they are (`gpu_of_fibers`).

As slow as it is exact: it shows what kernels compute, and that they wait for one another where they
have to, not what a GPU's memory or compiler makes of them.
"""

import gc
import platform
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import service.engine
from service.engine import cuda_kernels, cuda_memory

_SOURCES = Path(__file__).with_name("gpu_of_fibers")
_CACHES = (
    cuda_memory.runtime,
    cuda_memory.locking_runtime,
    cuda_kernels._driver,
    cuda_kernels._locking_driver,
)
compiler = shutil.which("g++") or shutil.which("c++")
needs_fibers = pytest.mark.skipif(
    compiler is None or platform.machine() != "x86_64", reason="needs a C++ compiler for x86-64"
)


@contextmanager
def fiber_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In place of whatever GPU there is.

    Args:
        folder: Where it is built; what is there already is used.
    """
    runtime = _build(folder / "libruntime.so", _SOURCES / "runtime.cpp", ())
    building = threading.Lock()

    def compile_for(source: Path, numbers: cuda_kernels.Numbers, architecture: int) -> bytes:
        width = dict(numbers)["WIDTH"]
        library, macros = folder / f"libkernels-{width}.so", (f"-DWIDTH={width}", "-DSTAGES=3")
        with building:
            return str(_build(library, _SOURCES / "launch.cpp", macros)).encode() + b"\0"

    with monkeypatch.context() as patched:
        patched.setattr(cuda_kernels, "compile_for", compile_for)
        patched.setattr(cuda_kernels, "_DRIVER", str(runtime))
        patched.setattr(cuda_memory, "_LIBRARIES", (str(runtime),))
        for cache in _CACHES:
            cache.cache_clear()
        yield
        gc.collect()  # what lies there is freed there
    for cache in _CACHES:
        cache.cache_clear()


def _build(library: Path, source: Path, macros: tuple[str, ...]) -> Path:
    if not library.exists():
        folders = f"-I{_SOURCES}", f"-I{Path(service.engine.__file__).parent}"
        language = "-std=c++20", "-mf16c", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE"
        assert compiler is not None
        command = [compiler, *language, "-O2", "-fPIC", "-shared", *folders, *macros]
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
    return library
