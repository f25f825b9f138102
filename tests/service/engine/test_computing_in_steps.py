"""Computations in steps, in an event loop and in threads; a GPU's lane, which one has at a time.

The stream here does what it is told on the CPU; what a real one does, `test_cuda_nearest.py` shows.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from stand_in_gpu import SlowStream, lane_of

from service.engine.cuda_stream import Rooms, Work
from service.engine.steps import Steps, at_once, go_on, in_turns

SOON_S = 60.0


def count_to(number: int, seen: list[Any], name: str) -> Steps[str]:
    for step in range(number):
        seen.append((name, step))
        yield go_on
    return name


def test_an_event_loop_has_a_turn_between_steps() -> None:
    seen = list[Any]()

    async def main() -> list[str]:
        return await asyncio.gather(*(in_turns(count_to(3, seen, name)) for name in "ab"))

    assert asyncio.run(main()) == ["a", "b"]
    assert seen == [(name, step) for step in range(3) for name in "ab"]


def test_a_lane_is_one_users_at_a_time_in_order_of_coming() -> None:
    seen, lane = list[Any](), lane_of(SlowStream())

    async def main() -> list[str]:
        users = (lane.take(count_to(3, seen, name)) for name in "abc")
        return await asyncio.gather(*map(in_turns, users))

    assert asyncio.run(main()) == ["a", "b", "c"]
    assert seen == [(name, step) for name in "abc" for step in range(3)]


def test_threads_and_a_loop_never_have_a_lane_together() -> None:
    lane, inside, most = lane_of(SlowStream()), list[int](), list[int]()

    def work(number: int) -> Steps[None]:
        inside.append(number)
        for _ in range(20):
            most.append(len(inside))
            yield go_on
        inside.pop()

    async def main() -> None:
        await asyncio.gather(*(in_turns(lane.take(work(number))) for number in range(20)))

    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(at_once, lane.take(work(number))) for number in range(20)]
        asyncio.run(main())
        for other in others:
            other.result(SOON_S)
    assert most == [1] * 20 * 40


def test_a_lane_waits_for_its_stream_and_what_failed_leaves_it_to_others() -> None:
    stream = SlowStream()
    lane = lane_of(stream)

    def fail() -> Steps[None]:
        stream.done.clear()
        yield from lane.end()
        raise RuntimeError("the GPU failed")

    async def main() -> None:
        failing = asyncio.create_task(in_turns(lane.take(fail())))
        next_one = asyncio.create_task(in_turns(lane.take(lane.end())))
        given_up = asyncio.create_task(in_turns(lane.take(lane.end())))
        for _ in range(5):
            await asyncio.sleep(0)
        given_up.cancel()
        assert not failing.done() and not next_one.done()
        stream.done.set()
        with pytest.raises(RuntimeError, match="the GPU failed"):
            await failing
        await next_one

    asyncio.run(main())


def test_nothing_is_opened_while_something_is_recorded() -> None:
    """Many at once do either, none beside the other."""
    rooms, inside, seen = Rooms(), list[Work](), list[set[Work]]()

    def work(kind: Work) -> None:
        for _ in range(200):
            with rooms.enter(kind):
                inside.append(kind)
                seen.append({*inside})
                time.sleep(0)
                inside.remove(kind)

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(work, kind) for kind in [*Work] * 3]:
            done.result(SOON_S)
    assert all(len(kinds) == 1 for kinds in seen)
    with pytest.raises(RuntimeError), rooms.enter(Work.RECORDING):
        raise RuntimeError("what fails leaves the room")
    with rooms.enter(Work.OPENING):
        pass
