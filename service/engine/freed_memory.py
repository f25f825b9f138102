"""Gives back to the system what a bundle held that nobody uses any more.

The C library keeps freed memory wherever something small has been put behind it since, Python looks
for cycles only after many new objects, and both Python and NumPy keep what is small when it is
freed. Without this a service that gets a new model now and then grows for hours before it uses
again what it has: docs/decisions/0041 and 0054.
"""

import asyncio
import contextlib
import ctypes
import gc
import time
import weakref
from typing import Protocol, runtime_checkable

import numpy as np

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
_KEPT_BYTES = 1024
"""Arrays below this are kept by NumPy when they are freed, `_KEPT_OF_A_SIZE` of each size."""
_KEPT_OF_A_SIZE = 7
_PAUSE_S = 0.0002
"""After the blocks of each size, which takes a quarter of that: nobody waits for this to end, and
an event loop would wait for it at each of its steps."""


@runtime_checkable
class HeldElsewhere(Protocol):
    """What isn't all in this process's memory."""

    def let_go(self) -> None:
        """Free it piece by piece, as others go on meanwhile."""


def give_back_after(opened: object, held: object) -> None:
    """Give memory back, in a thread, once a bundle is gone; to be called in an event loop.

    Args:
        opened: Lives as long as somebody uses the bundle.
        held: What it holds, let go of there too: to unmap large files takes milliseconds. Only this
            and `opened` refer to it.
    """
    loop = asyncio.get_running_loop()
    weakref.finalize(opened, _begin_soon, loop, [held]).atexit = False


def give_back() -> None:
    """Collect garbage, empty what interpreter and NumPy keep, return free pages.

    Takes a third of a second, nearly all of it in pauses, where what lives as long as the process
    is frozen. Only a full collection empties the interpreter's lists of free objects: CPython 3.11
    puts tuples of twenty there and never takes them out again.
    """
    gc.collect()
    _free_small_arrays()
    if _trim is not None:
        _trim(0)


def _free_small_arrays() -> None:
    """Take the blocks that NumPy keeps, and let each grow: as it is then, it is freed for good."""
    for size in range(1, _KEPT_BYTES):
        for _ in range(_KEPT_OF_A_SIZE):
            np.empty(size, np.uint8).resize(_KEPT_BYTES, refcheck=False)
        time.sleep(_PAUSE_S)


def _begin_soon(loop: asyncio.AbstractEventLoop, held: list[object]) -> None:
    """Begin in the loop: what a finalizer tells of is freed after it, and in any thread."""
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(_begin, loop, held)


def _begin(loop: asyncio.AbstractEventLoop, held: list[object]) -> None:
    with contextlib.suppress(RuntimeError):  # it is ending, and begins no thread
        loop.run_in_executor(None, _let_go, held)


def _let_go(held: list[object]) -> None:
    for one in held:
        if isinstance(one, HeldElsewhere):
            one.let_go()
    held.clear()
    give_back()
