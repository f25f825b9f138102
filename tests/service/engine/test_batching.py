import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.engine.batching import Batcher
from service.errors import DeadlineExceededError, NotReadyError, OverloadedError

SOON_S = 30.0


class Doubler:
    """Doubles numbers once its gate is open, remembers the batches, and can't double 13."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, queries: Sequence[int]) -> list[int | Exception]:
        assert self.gate.wait(timeout=SOON_S)
        self.batches.append(list(queries))
        if 13 in queries:
            raise ZeroDivisionError("13")
        return [LookupError("0") if query == 0 else 2 * query for query in queries]


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


async def ask(batcher: Batcher[int, int], query: int, wait_s: float = SOON_S) -> int:
    return (await batcher.submit(query, time.monotonic() + wait_s)).answer


async def start(batcher: Batcher[int, int], *queries: int) -> list[asyncio.Task[int]]:
    """Submit a query that keeps the thread busy, then the queries that wait behind it."""
    tasks = [asyncio.create_task(ask(batcher, 1))]
    await asyncio.sleep(0)
    while batcher.waiting:
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(ask(batcher, query)) for query in queries]
    await asyncio.sleep(0)
    return tasks


def test_what_waits_is_computed_together_up_to_the_limit(thread: ThreadPoolExecutor) -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, thread, max_queue=9, max_batch=3)
        tasks = await start(batcher, 2, 3, 4, 5)
        double.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]

    run(main)
    assert double.batches == [[1], [2, 3, 4], [5]]


def test_a_full_queue_refuses_at_once(thread: ThreadPoolExecutor) -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, thread, max_queue=2, max_batch=8)
        tasks = await start(batcher, 2, 3)
        with pytest.raises(OverloadedError):
            await ask(batcher, 4)
        double.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6]
        assert await ask(batcher, 4) == 8

    run(main)


def test_a_passed_deadline_ends_the_wait_and_spares_the_work(thread: ThreadPoolExecutor) -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, thread, max_queue=9, max_batch=8)
        tasks = await start(batcher, 2)
        with pytest.raises(DeadlineExceededError):
            await ask(batcher, 3, wait_s=0.02)
        with pytest.raises(DeadlineExceededError):
            await ask(batcher, 4, wait_s=-1)
        double.gate.set()
        await asyncio.gather(*tasks)

    run(main)
    assert double.batches == [[1], [2]]


def test_what_would_be_late_is_refused_at_once(thread: ThreadPoolExecutor) -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, thread, max_queue=9, max_batch=8)
        [slow] = await start(batcher)
        await asyncio.sleep(0.2)
        double.gate.set()
        await slow  # a query costs at least 0.2 * 0.2 s now
        double.gate.clear()
        tasks = await start(batcher, 2, 3)
        with pytest.raises(OverloadedError, match="in time"):
            await ask(batcher, 4, wait_s=0.05)
        double.gate.set()
        await asyncio.gather(*tasks)

    run(main)
    assert double.batches == [[1], [1], [2, 3]]


def test_a_cancelled_caller_is_not_computed_for(thread: ThreadPoolExecutor) -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, thread, max_queue=9, max_batch=8)
        tasks = await start(batcher, 2, 3)
        tasks[1].cancel()
        await asyncio.sleep(0)
        double.gate.set()
        assert await asyncio.gather(tasks[0], tasks[2]) == [2, 6]

    run(main)
    assert double.batches == [[1], [3]]


def test_a_poisoned_query_fails_alone(thread: ThreadPoolExecutor) -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, thread, max_queue=9, max_batch=8)
        tasks = await start(batcher, 2, 13, 0, 4)
        double.gate.set()
        first, good, poisoned, wrong, last = await asyncio.gather(*tasks, return_exceptions=True)
        assert (first, good, last) == (2, 4, 8)
        assert isinstance(poisoned, ZeroDivisionError)
        assert isinstance(wrong, LookupError)

    run(main)


def test_a_shut_down_thread_means_not_ready() -> None:
    async def main() -> None:
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        batcher = Batcher(Doubler(), executor, max_queue=9, max_batch=8)
        with pytest.raises(NotReadyError):
            await ask(batcher, 1)
        assert batcher.waiting == 0

    run(main)
