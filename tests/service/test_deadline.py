"""What happens to somebody who waits for too long."""

import asyncio
import math
import time

import pytest

from service.deadline import before, within_deadline
from service.errors import DeadlineExceededError


@pytest.mark.parametrize("left_s", [math.inf, 3600.0])
def test_what_is_there_in_time_is_returned(left_s: float) -> None:
    async def scenario() -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "answer")
        return await before(time.monotonic() + left_s, future)

    assert asyncio.run(scenario()) == "answer"


@pytest.mark.parametrize("left_s", [-1.0, 0.01])
def test_whoever_waits_too_long_is_told(left_s: float) -> None:
    async def scenario() -> None:
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(DeadlineExceededError):
            await before(time.monotonic() + left_s, future)
        assert future.done()  # whoever would answer sees that nobody waits
        late = pytest.raises(DeadlineExceededError)
        with late, within_deadline(time.monotonic() + left_s):
            await asyncio.get_running_loop().create_future()

    asyncio.run(scenario())


def test_a_caller_that_leaves_takes_the_future_along() -> None:
    async def scenario() -> None:
        future = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(before(time.monotonic() + 3600, future))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert future.cancelled()

    asyncio.run(scenario())


def test_a_caller_that_leaves_is_cancelled_though_the_time_is_up_as_well() -> None:
    async def wait() -> None:
        with within_deadline(time.monotonic() + 0.01):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)  # takes its time to clean up
                raise

    async def scenario() -> None:
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())


def test_who_is_in_time_is_not_disturbed_afterwards() -> None:
    async def scenario() -> str:
        with within_deadline(time.monotonic() + 0.01):
            await asyncio.sleep(0)
        await asyncio.sleep(0.03)
        return "undisturbed"

    assert asyncio.run(scenario()) == "undisturbed"
