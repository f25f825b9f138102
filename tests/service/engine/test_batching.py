import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from service.engine.batching import Batcher
from service.errors import DeadlineExceededError, NotReadyError, OverloadedError

SOON_S = 30.0


class Doubler:
    """Doubles numbers once its gate is open, remembers the batches, and can't double 13."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.batches: list[list[int]] = []

    async def __call__(self, queries: Sequence[int]) -> list[int | Exception]:
        await asyncio.wait_for(self.gate.wait(), SOON_S)
        self.batches.append(list(queries))
        if 13 in queries:
            raise ZeroDivisionError("13")
        return [LookupError("0") if query == 0 else 2 * query for query in queries]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


async def ask(batcher: Batcher[int, int], query: int, wait_s: float = SOON_S) -> int:
    return (await batcher.submit(query, time.monotonic() + wait_s)).answer


async def start(batcher: Batcher[int, int], *queries: int) -> list[asyncio.Task[int]]:
    """Submit a query that keeps the computation busy, then the queries that wait behind it."""
    tasks = [asyncio.create_task(ask(batcher, 1))]
    await asyncio.sleep(0)
    while batcher.waiting:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(ask(batcher, query)) for query in queries]
    await asyncio.sleep(0)
    return tasks


async def add(batcher: Batcher[int, int], query: int) -> asyncio.Task[int]:
    """Submit one more, and let its batch begin if it is to."""
    task = asyncio.create_task(ask(batcher, query))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


def test_what_waits_is_computed_together_up_to_the_limit() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=3)
        tasks = await start(batcher, 2, 3, 4, 5)
        double.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]

    run(main)
    assert double.batches == [[1], [2, 3, 4], [5]]


def test_a_full_queue_refuses_at_once() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=2, max_batch=8)
        tasks = await start(batcher, 2, 3)
        with pytest.raises(OverloadedError):
            await ask(batcher, 4)
        double.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6]
        assert await ask(batcher, 4) == 8

    run(main)


def test_a_passed_deadline_ends_the_wait_and_spares_the_work() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=8)
        tasks = await start(batcher, 2)
        with pytest.raises(DeadlineExceededError):
            await ask(batcher, 3, wait_s=0.02)
        with pytest.raises(DeadlineExceededError):
            await ask(batcher, 4, wait_s=-1)
        double.gate.set()
        await asyncio.gather(*tasks)

    run(main)
    assert double.batches == [[1], [2]]


def test_what_is_put_without_a_timer_fails_in_its_turn_once_it_is_late() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=8)
        tasks = await start(batcher)
        late_s = time.monotonic() + 0.02
        late, other = batcher.put(3, late_s), batcher.put(4, late_s + SOON_S)
        while time.monotonic() < late_s:
            await asyncio.sleep(0.005)
        assert not late.done()
        double.gate.set()
        with pytest.raises(DeadlineExceededError):
            await late
        assert (await other).answer == 8
        await asyncio.gather(*tasks)

    run(main)
    assert double.batches == [[1], [4]]


def test_what_would_be_late_is_refused_at_once() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=8)
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


def test_a_cancelled_caller_is_not_computed_for() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=8)
        tasks = await start(batcher, 2, 3)
        tasks[1].cancel()
        await asyncio.sleep(0)
        double.gate.set()
        assert await asyncio.gather(tasks[0], tasks[2]) == [2, 6]

    run(main)
    assert double.batches == [[1], [3]]


def test_a_poisoned_query_fails_alone() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=8)
        tasks = await start(batcher, 2, 13, 0, 4)
        double.gate.set()
        first, good, poisoned, wrong, last = await asyncio.gather(*tasks, return_exceptions=True)
        assert (first, good, last) == (2, 4, 8)
        assert isinstance(poisoned, ZeroDivisionError)
        assert isinstance(wrong, LookupError)

    run(main)


def test_closing_finishes_what_waits_and_refuses_what_comes() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=8)
        tasks = await start(batcher, 2)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReadyError):
            await ask(batcher, 3)
        double.gate.set()
        await closing
        assert await asyncio.gather(*tasks) == [2, 4]

    run(main)


def test_a_cancelled_caller_frees_its_place() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=1, max_batch=8)
        tasks = await start(batcher, 2)
        tasks[1].cancel()
        await asyncio.sleep(0)
        waiting = asyncio.create_task(ask(batcher, 3))
        await asyncio.sleep(0)
        double.gate.set()
        assert await waiting == 6
        assert await tasks[0] == 2

    run(main)


def test_what_is_wrong_on_purpose_holds_for_the_batch_and_is_not_tried_again() -> None:
    batches: list[int] = []

    async def refuse(queries: Sequence[int]) -> list[int | Exception]:
        batches.append(len(queries))
        raise NotReadyError("not now")

    async def main() -> None:
        batcher: Batcher[int, int] = Batcher(refuse, max_queue=9, max_batch=8)
        answers = await asyncio.gather(
            *(ask(batcher, n) for n in (1, 2, 3)), return_exceptions=True
        )
        assert all(isinstance(answer, NotReadyError) for answer in answers)

    run(main)
    assert batches == [3]


def test_several_batches_are_under_way_where_that_is_wished() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=1, in_flight=2)
        tasks = [asyncio.create_task(ask(batcher, query)) for query in (1, 2, 3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        double.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6]

    run(main)


def test_a_batch_begins_beside_another_only_for_enough() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=4, in_flight=2, least_beside=3)
        tasks = await start(batcher, 2, 3)
        await asyncio.sleep(0)
        assert batcher.waiting == 2
        tasks.append(await add(batcher, 4))
        assert batcher.waiting == 0
        tasks.append(await add(batcher, 5))
        assert batcher.waiting == 1
        double.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]

    run(main)
    assert double.batches == [[1], [2, 3, 4], [5]]


def test_beside_few_one_is_enough() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=4, in_flight=3, least_beside=3, few=1)
        tasks = await start(batcher, 2)
        await asyncio.sleep(0)
        assert batcher.waiting == 0
        tasks.append(await add(batcher, 3))  # beside two it has to wait
        assert batcher.waiting == 1
        double.gate.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6]

    run(main)
    assert double.batches == [[1], [2], [3]]


def test_large_queries_are_enough_sooner() -> None:
    double = Doubler()

    async def main() -> None:
        batcher = Batcher(double, max_queue=9, max_batch=4, in_flight=2, least_beside=5)
        first = await start(batcher)
        small, large = batcher.put(2, math.inf, size=2), batcher.put(3, math.inf, size=2)
        await asyncio.sleep(0)
        assert batcher.waiting == 2
        last = batcher.put(4, math.inf)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert batcher.waiting == 0
        double.gate.set()
        await asyncio.gather(*first, small, large, last)

    run(main)
    assert double.batches == [[1], [2, 3, 4]]
