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
        with pytest.raises(DeadlineExceededError):
            async with within_deadline(time.monotonic() + left_s):
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
