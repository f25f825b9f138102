import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from redis.exceptions import ResponseError

from service.errors import HistoryStoreError
from service.store_connection import (
    MOST_KEPT,
    KeptConnections,
    close_store,
    connect_store,
    finish_within,
)


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


def with_kept(
    store_url: str, scenario: Callable[[Any, KeptConnections], Awaitable[None]], *, most: int = 8
) -> None:
    """Run a scenario with a client and what reads over connections of its own."""

    async def main() -> None:
        client = connect_store(store_url, timeout_s=5, max_connections=most)
        try:
            await scenario(client, KeptConnections(client))
        finally:
            await close_store(client)

    asyncio.run(main())


def test_values_come_in_the_order_of_their_keys(store_url: str) -> None:
    here, there = (f"kept-{uuid4()}" for _ in range(2))

    async def scenario(client: Any, kept: KeptConnections) -> None:
        await client.mset({here: b"1", there: b"\0\r\n2"})
        for _ in range(3):
            assert await kept.read([there, "kept-nobody", here, there]) == [
                b"\0\r\n2",
                None,
                b"1",
                b"\0\r\n2",
            ]

    with_kept(store_url, scenario)


def test_who_gives_up_leaves_no_answer_to_the_next(store_url: str) -> None:
    key, other = (f"kept-{uuid4()}" for _ in range(2))

    async def scenario(client: Any, kept: KeptConnections) -> None:
        await client.mset({key: b"late", other: b"right"})
        await kept.read([other])  # connected
        await client.client_pause(300)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await kept.read([key])
        assert await kept.read([other]) == [b"right"]

    with_kept(store_url, scenario)


def test_a_connection_that_the_server_closed_is_opened_again(store_url: str) -> None:
    key, name = (f"kept-{uuid4()}" for _ in range(2))

    async def scenario(client: Any, kept: KeptConnections) -> None:
        await client.set(key, b"1")
        await kept.read([key])
        for one in await client.client_list():
            if one["name"] == name:
                await client.client_kill_filter(_id=one["id"])
        await asyncio.sleep(0.05)  # we are told
        assert await kept.read([key]) == [b"1"]

    with_kept(f"{store_url}{'&' if '?' in store_url else '?'}client_name={name}", scenario)


def test_a_burst_keeps_no_connection_from_others(store_url: str) -> None:
    key = f"kept-{uuid4()}"

    async def scenario(client: Any, kept: KeptConnections) -> None:
        await client.set(key, b"1")
        assert await asyncio.gather(*(kept.read([key]) for _ in range(50))) == [[b"1"]] * 50
        # The rest of the pool is free for commands that each hold a connection for a while.
        waiting = [client.blpop("kept-nothing", timeout=0.2) for _ in range(8 - MOST_KEPT)]
        assert await asyncio.wait_for(asyncio.gather(*waiting), 2) == [None] * len(waiting)

    with_kept(store_url, scenario)


def test_failures_give_their_connections_back(store_url: str) -> None:
    """A pool of two would be empty after two of them."""

    async def scenario(_: Any, kept: KeptConnections) -> None:
        for _ in range(5):
            with pytest.raises(ResponseError, match="wrong number of arguments"):
                await asyncio.wait_for(kept.read([]), 2)
        assert await kept.read(["kept-nobody"]) == [None]

    with_kept(store_url, scenario, most=2)
