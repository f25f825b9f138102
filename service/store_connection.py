"""Connections to the store, and what its failures are called."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from service.errors import HistoryStoreError

ResultT = TypeVar("ResultT")

CLUSTER = "+cluster"
MOST_KEPT = 2
"""Connections for reading: one that is waited for, and one for what can't wait as long."""
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


class KeptConnections:
    """Reads values over connections that are kept for nothing else.

    Given through the client, a command costs more than twice as much: for its pool's lock, taken
    twice, a retry that we don't want, and counters that nobody reads (docs/decisions/0078).

    Args:
        client: As `connect_store` makes it, of one server. It closes these connections, too.
    """

    def __init__(self, client: Any) -> None:
        self._pool = client.connection_pool
        self._idle: list[Any] = []

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of some keys, in their order; raises what the library does."""
        connection = self._idle.pop() if self._idle else await self._pool.get_connection()
        try:
            await self._pool.ensure_connection(connection)  # the server may have closed it
            await connection.send_command("MGET", *keys, check_health=False)
            values: list[bytes | None] = await connection.read_response()
        except BaseException:  # of what the server says next nobody knows what it answers
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)
            raise
        if len(self._idle) < MOST_KEPT:
            self._idle.append(connection)
        else:
            await self._pool.release(connection)
        return values


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
