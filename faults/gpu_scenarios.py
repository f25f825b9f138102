"""What can happen to an engine on a GPU; nothing where there is none."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks.results_file import gpus
from faults.service_scenarios import HOLD_S, await_readiness, with_engine
from faults.world import World
from tests.tiny_bundle_builder import TINY_VERSIONS

TAKE_ALL = """
import sys, numpy as np, onnxruntime as ort
if hasattr(ort, "preload_dlls"):
    ort.preload_dlls()
held, size = [], 1 << 30
while size >= 1 << 20:
    try:
        held.append(ort.OrtValue.ortvalue_from_shape_and_type([size], np.uint8, "cuda", 0))
    except Exception:
        size //= 2
print(sum(piece.shape()[0] for piece in held) >> 20, flush=True)
sys.stdin.read()
"""


def gpu_without_memory(world: World) -> None:
    """All of a GPU's memory is taken, a model is to be opened on it, and then it is given back."""
    current, other = TINY_VERSIONS
    with with_engine(world, "--device", "cuda") as (replica, _):
        with world.fault(), _memory_taken(world):
            status, answer = replica.call("POST", f"/admin/models/{other}/activate")
            world.notes.append(f"a model activated meanwhile: {status}, {answer}")
            time.sleep(HOLD_S)
        for version in (other, current):
            status, answer = replica.call("POST", f"/admin/models/{version}/activate")
            world.expect(status == 200, f"activation afterwards: {status} {answer}")


def gpu_engine_killed_without_memory(world: World) -> None:
    """An engine is killed and its GPU is full: the next one answers once memory is given back.

    What the first one had is not always enough: CUDA loads code only when it is first run.
    """
    with with_engine(world, "--device", "cuda") as (replica, engine), world.fault():
        with _memory_taken(world):
            os.kill(engine, signal.SIGKILL)
            time.sleep(HOLD_S)
            world.notes.append(f"readiness meanwhile: {replica.readiness()}")
        freed_s = time.monotonic()
        if await_readiness(world, replica, True):
            world.notes.append(f"ready {time.monotonic() - freed_s:.1f} s after it was given back")


@contextlib.contextmanager
def _memory_taken(world: World) -> Iterator[None]:
    """Hold what is free on the first GPU, and what becomes free while it is being taken."""
    command = [sys.executable, "-c", TAKE_ALL]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as taker:
        assert taker.stdin is not None and taker.stdout is not None
        world.notes.append(f"{taker.stdout.readline().strip()} MiB taken")
        try:
            yield
        finally:
            taker.stdin.close()  # what reads from it ends, and so does what it holds
            taker.wait()


LOSES: set[str] = set()
SCENARIOS: tuple[Callable[[World], None], ...] = (
    (gpu_without_memory, gpu_engine_killed_without_memory) if gpus() else ()
)
