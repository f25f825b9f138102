"""Connections to the store, and what its failures are called."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.errors import HistoryStoreError

ResultT = TypeVar("ResultT")


def connect_store(url: str, *, timeout_s: float, max_connections: int) -> Any:
    """Make a client; it connects with its first command.

    Its own types allow text; ours are bytes throughout, so it is left untyped.
    """
    # Never send a command twice: a write whose answer was lost would count as a duplicate.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    return Redis.from_pool(pool)


async def finish_within(call: Awaitable[ResultT], timeout_s: float) -> ResultT:
    """Await a command for some time.

    Raises:
        HistoryStoreError: If it fails, or takes longer.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except (RedisError, OSError, TimeoutError) as error:
        raise HistoryStoreError(f"the store failed: {type(error).__name__}") from error
