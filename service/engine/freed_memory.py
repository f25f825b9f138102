"""Gives back to the system what a bundle held that nobody uses any more.

The C library keeps freed memory wherever something small has been put behind it since, and Python
looks for cycles only after many new objects. Without this a service that gets a new model now and
then grows for hours before it uses again what it has: docs/decisions/0041.
"""

import asyncio
import contextlib
import ctypes
import gc
import weakref

_YOUNG = 1
"""Generations with the cycles that reading a bundle leaves: NumPy makes some for every array."""
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone


def give_back_after(bundle: object) -> None:
    """Give memory back, in a thread, once a bundle is gone; to be called in an event loop."""
    weakref.finalize(bundle, _begin_soon, asyncio.get_running_loop()).atexit = False


def give_back() -> None:
    """Collect young garbage and return free pages: takes some milliseconds."""
    gc.collect(_YOUNG)
    if _trim is not None:
        _trim(0)


def _begin_soon(loop: asyncio.AbstractEventLoop) -> None:
    """Begin in the loop: what a finalizer tells of is freed after it, and in any thread."""
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(_begin, loop)


def _begin(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # it is ending, and begins no thread
        loop.run_in_executor(None, give_back)
