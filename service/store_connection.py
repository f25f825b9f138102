"""Connections to the store, and what its failures are called."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from service.errors import HistoryStoreError

ResultT = TypeVar("ResultT")


CLUSTER = "+cluster"
FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What the library raises where the store fails; a cluster's kind isn't one of the others."""


def connect_store(url: str, *, timeout_s: float, max_connections: int) -> Any:
    """Make a client; it connects with its first command.

    Its own types allow text; ours are bytes throughout, so it is left untyped.

    Args:
        url: redis://, rediss://, unix://; redis+cluster:// or rediss+cluster:// with any server of
            a cluster, which names the others.
        timeout_s: For connecting. Whoever gives a command says how long it may take: the library's
            own limit of each reading and writing costs a quarter of a command, and a task.
        max_connections: In all; of a cluster, with each server.
    """
    never_twice = Retry(NoBackoff(), 0)  # a write whose answer was lost would count as a duplicate
    if CLUSTER in url:
        return RedisCluster.from_url(
            url.replace(CLUSTER, "", 1),
            max_connections=max_connections,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=never_twice,
            protocol=2,
        )
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=None,
        socket_connect_timeout=timeout_s,
        retry=never_twice,
        protocol=2,
    )
    return Redis.from_pool(pool)


def is_cluster(client: Any) -> bool:
    """Whether keys may be on several servers."""
    return isinstance(client, RedisCluster)


async def close_store(client: Any) -> None:
    """Close all connections of a client."""
    if is_cluster(client):
        await client.aclose()
    else:
        await client.aclose(close_connection_pool=True)


async def finish_within(call: Awaitable[ResultT], timeout_s: float) -> ResultT:
    """Await a command for some time.

    Raises:
        HistoryStoreError: If it fails, or takes longer.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except FAILURES as error:
        end_if_cancelled(error)
        raise HistoryStoreError(f"the store failed: {type(error).__name__}") from error


def end_if_cancelled(failure: Exception) -> None:
    """Raise CancelledError if the caller's task was cancelled, whatever its command failed with.

    The library disconnects where a command is cancelled, and if that fails, tells of that alone.
    Whoever follows the store would take it for one more failure, and go on for good.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from failure
