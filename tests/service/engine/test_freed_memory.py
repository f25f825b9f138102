"""What a bundle held goes back to the system once nobody uses it."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType

import pytest
from tiny_bundle_builder import TINY_VERSIONS

from service.engine import freed_memory
from service.engine.engine import Engine, InlineEngine
from service.engine.engine_client import RemoteEngine
from service.engine.freed_memory import give_back, give_back_after
from service.engine.model_pool import ModelPool
from service.engine_process import EngineProcess
from service.settings import Settings

SOON_S = 20.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(params=["inline", "process"])
def new_engine(
    request: pytest.FixtureRequest, tiny_registry: Path
) -> Iterator[Callable[[], Engine]]:
    if request.param == "inline":
        yield lambda: InlineEngine(tiny_registry, device="cpu", max_batch=8)
        return
    settings = Settings(registry=tiny_registry, device="cpu", log_level="error")
    with EngineProcess(settings) as process:
        yield lambda: RemoteEngine(tiny_registry, process.socket)


@pytest.fixture
def no_collections() -> Iterator[None]:
    """No garbage is collected but by who asks for it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Cycle:
    """Garbage that can tell when it is collected; who looked for it would keep it alive."""

    def __init__(self) -> None:
        self.itself = self


def left_by_reading() -> int:
    """Functions that NumPy's reading of array headers leaves in cycles."""
    # `isinstance` would ask objects of other libraries for their class, and torch's warn of it.
    functions = (one for one in gc.get_objects() if type(one) is FunctionType)
    return sum(one.__qualname__.startswith("literal_eval.<locals>") for one in functions)


@pytest.mark.usefixtures("no_collections")
def test_activations_leave_no_garbage(
    tiny_registry: Path, new_engine: Callable[[], Engine]
) -> None:
    async def main() -> None:
        engine = new_engine()
        pool = ModelPool(tiny_registry, engine, max_queue=9, max_batch=8)
        await pool.open()
        assert left_by_reading() > 0  # which replaced nothing
        for turn in range(1, 4):
            is_collected = threading.Event()
            weakref.finalize(Cycle(), is_collected.set)
            await pool.activate(TINY_VERSIONS[turn % 2])
            assert await asyncio.to_thread(is_collected.wait, SOON_S)
            assert left_by_reading() == 0
        await pool.close()
        await engine.close()

    asyncio.run(main())


def test_what_a_bundle_held_is_let_go_of_in_a_thread() -> None:
    class Held:
        """Tells who let go of it."""

        def let_go(self) -> None:
            freed_in.append(threading.get_ident())

        def __del__(self) -> None:
            freed_in.append(threading.get_ident())
            is_freed.set()

    freed_in: list[int] = []
    is_freed = threading.Event()

    async def main() -> None:
        opened = Cycle()
        give_back_after(opened, Held())
        del opened
        gc.collect()
        assert await asyncio.to_thread(is_freed.wait, SOON_S)

    asyncio.run(main())
    [let_go_in, deleted_in] = freed_in
    assert let_go_in == deleted_in != threading.get_ident()


@pytest.mark.skipif(freed_memory._trim is None, reason="this C library has no malloc_trim")
def test_freed_pages_go_back_though_something_small_lies_behind_them() -> None:
    blocks = [bytes(4000) for _ in range(16_000)]
    behind = blocks[-1]
    held = resident_bytes()
    blocks.clear()
    assert resident_bytes() > held - 8e6  # the C library keeps them
    give_back()
    assert resident_bytes() < held - 48e6
    assert len(behind) == 4000


@pytest.mark.skipif(freed_memory._trim is None, reason="this C library has no malloc_trim")
def test_small_arrays_that_numpy_keeps_are_given_back() -> None:
    """Seven of each size below a kilobyte: 7 * (1 + ... + 1023) bytes are 3.7 MB.

    In a process of its own: what other tests left behind fills, or is given back, too.
    """
    program = (
        "import os, service, numpy as np\n"
        "from service.engine.freed_memory import give_back\n"
        "def resident_bytes():\n"
        "    pages = int(open('/proc/self/statm').read().split()[1])\n"
        "    return pages * os.sysconf('SC_PAGE_SIZE')\n"
        "give_back()\n"
        "arrays = [np.empty(size, np.uint8) for size in range(1024) for _ in range(7)]\n"
        "del arrays\n"
        "held = resident_bytes()\n"
        "give_back()\n"
        "print(held - resident_bytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(done.stdout) > 2.5e6


@pytest.mark.skipif(freed_memory._trim is None, reason="this C library has no malloc_trim")
def test_threads_that_live_on_keep_no_memory_of_their_own() -> None:
    """Four threads free 1.2 MB each and wait: the end of an arena of their own would stay."""
    program = (
        "import os, service, threading\n"
        "from service.engine.freed_memory import give_back\n"
        "def resident_bytes():\n"
        "    pages = int(open('/proc/self/statm').read().split()[1])\n"
        "    return pages * os.sysconf('SC_PAGE_SIZE')\n"
        "def work():\n"
        "    blocks = [bytes(4000) for _ in range(300)]\n"
        "    at_once.wait()\n"
        "    blocks.clear()\n"
        "    at_once.wait()\n"
        "    at_once.wait()\n"
        "at_once = threading.Barrier(5)\n"
        "bytes(900_000)  # freed, it lets the library keep more at the end of an arena\n"
        "give_back()\n"
        "before = resident_bytes()\n"
        "for _ in range(4): threading.Thread(target=work).start()\n"
        "at_once.wait()\n"
        "at_once.wait()\n"
        "give_back()\n"
        "print(resident_bytes() - before)\n"
        "at_once.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(done.stdout) < 1e6


@pytest.mark.usefixtures("no_collections")
def test_free_objects_that_the_interpreter_keeps_are_given_back() -> None:
    give_back()
    before = sys.getallocatedblocks()
    tuples = [tuple(range(20)) for _ in range(2000)]  # CPython 3.11 keeps them, for nobody
    del tuples
    give_back()
    assert sys.getallocatedblocks() < before + 500


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def test_the_runtime_keeps_no_record_for_its_maker(tiny_bundle: Path, tmp_path: Path) -> None:
    program = (
        "import json, os, pathlib; import service.engine.encoder_session as encoders\n"
        f"encoders.open_session(pathlib.Path({str(tiny_bundle / 'encoder.onnx')!r}), "
        "encoders.one_thread())\n"
        "links = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')[:-1]]\n"
        "print(json.dumps([link for link in links if '.db' in link]))\n"
    )
    hushed = {"ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in hushed}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(done.stdout) == []
    assert [*tmp_path.rglob("*")] == []
