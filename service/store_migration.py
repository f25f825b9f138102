"""Brings a store's keys to the schema of this version, once, when a service starts.

Schema 1 gave each user a hash tag of its own: one script could not reach stream and counters in a
cluster. Its keys are renamed, which keeps values and expiries; the streams keep their names. It
may be interrupted and run again, and by several processes at a time.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from redis.exceptions import ResponseError

from lsvcr.errors import LsvcrError
from service.store_connection import is_cluster
from service.store_keys import SCHEMA, SCHEMA_KEY, StoreKeys

_PAGE = 1000

logger = logging.getLogger(__name__)


class StoreSchemaError(LsvcrError):
    """The store was written by a newer version, or with other shards: we would misread it."""


async def migrate(redis: Any, keys: StoreKeys) -> None:
    """Rename what an older version left.

    Raises:
        StoreSchemaError: If the store's schema is newer than ours, or it has other shards.
        RedisError: If the store failed.
    """
    ours = f"{SCHEMA} {keys.shards}"
    found = (await redis.get(SCHEMA_KEY) or b"1").decode()
    if found == ours:
        return
    if found != "1":
        raise StoreSchemaError(f"the store has schema and shards {found!r}; we have {ours!r}")
    moved = 0
    async for old in _old_keys(redis):
        moved += await _rename(redis, old, _new_name(old.decode(), keys))
    await redis.set(SCHEMA_KEY, ours)
    if moved:
        logger.warning("renamed %d keys of an older version", moved)


async def _old_keys(redis: Any) -> AsyncIterator[bytes]:
    if is_cluster(redis):  # schema 1 knew no cluster
        return
    for pattern in ("lsvcr:{*}:history", "lsvcr:{*}:views", "lsvcr:{*}:arms", "lsvcr:popularity:*"):
        async for key in redis.scan_iter(match=pattern, count=_PAGE):
            yield key


def _new_name(old: str, keys: StoreKeys) -> str:
    start, _, last = old.rpartition(":")
    if start == "lsvcr:popularity":
        return keys.popularity(0, int(last))  # the shards' counts are added up
    owner = unquote(start.removeprefix("lsvcr:{").removesuffix("}"))
    return {"history": keys.history, "views": keys.views, "arms": keys.arms}[last](owner)


async def _rename(redis: Any, old: bytes, new: str) -> bool:
    """Rename a key unless something newer has that name already; False if it is gone."""
    try:
        return bool(await redis.renamenx(old, new))
    except ResponseError:  # another process was faster
        return False
