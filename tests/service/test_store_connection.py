import asyncio

import pytest

from service.errors import HistoryStoreError
from service.store_connection import finish_within


async def read(*, fails_at_once: bool) -> None:
    """As a client that cannot even disconnect when it is cancelled."""
    if fails_at_once:
        raise ConnectionError
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ConnectionError from None


def test_who_is_cancelled_ends_though_the_library_calls_it_a_failure() -> None:
    async def follow() -> None:
        for _ in range(2):  # every follower of the store does so for good
            try:
                await finish_within(read(fails_at_once=False), timeout_s=60)
            except HistoryStoreError:
                await asyncio.sleep(0)

    async def main() -> None:
        follower = asyncio.create_task(follow())
        await asyncio.sleep(0)
        follower.cancel()
        done, _ = await asyncio.wait({follower}, timeout=5)
        assert done == {follower}
        assert follower.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize(("fails_at_once", "timeout_s"), [(True, 60), (False, 0.01)])
def test_a_failure_and_a_timeout_stay_failures(fails_at_once: bool, timeout_s: float) -> None:
    async def main() -> None:
        with pytest.raises(HistoryStoreError):
            await finish_within(read(fails_at_once=fails_at_once), timeout_s)

    asyncio.run(main())
