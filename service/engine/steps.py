"""Computations in steps: between two of them an event loop has a turn, so that it goes on reading.

On a CPU a step computes. On a GPU it launches, and then looks whether that is done: a thread that
waited for it would have to have Python's lock again afterwards, which the event loop has mostly.
"""

import asyncio
from collections.abc import Callable, Generator
from typing import TypeVar

ResultT = TypeVar("ResultT")

Wait = Callable[[], object]
Steps = Generator[Wait, None, ResultT]
"""Yields what a thread, which has nothing else to do, calls to wait until going on makes sense."""


def go_on() -> None:
    """Wait for nothing: the next step can be done at once."""


async def in_turns(steps: Steps[ResultT]) -> ResultT:
    """Do them in an event loop, which has a turn after each."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: ResultT = end.value
            return result
        await asyncio.sleep(0)


def at_once(steps: Steps[ResultT]) -> ResultT:
    """Do them in a thread, which waits without Python's lock."""
    while True:
        try:
            wait = next(steps)
        except StopIteration as end:
            result: ResultT = end.value
            return result
        wait()
