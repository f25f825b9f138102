"""What the store's keys are called: schema 2.

    lsvcr:events:N                        the event log, one stream a shard        event_log.py
    lsvcr:{lsvcr:events:N}:history:USER   what a user did                          history_value.py
    lsvcr:{lsvcr:events:N}:views:USER     events that are only logged
    lsvcr:{lsvcr:events:N}:arms:UNIT      arms that a unit keeps                   sticky_arms.lua
    lsvcr:{lsvcr:events:N}:popularity:H   a shard's views in hour H         popularity_counters.py
    lsvcr:schema                          this schema's number, and how many shards there are

One script changes a user's value, the log and the counters together, so all three must be where
one server can reach them: in a cluster, in one slot. A shard's keys carry the name of its stream
as their hash tag, which puts them into the slot of that stream. Joined reads of a shard's users
stay one command. docs/decisions/0021.
"""

import zlib
from typing import Literal

SCHEMA = 2
SCHEMA_KEY = "lsvcr:schema"


class StoreKeys:
    """Names keys.

    Args:
        shards: How many streams the log has; a cluster spreads over as many servers at most.
    """

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self._events = [f"lsvcr:events:{shard}" for shard in range(shards)]
        self._tags = [f"lsvcr:{{{stream}}}" for stream in self._events]

    def shard_of(self, owner: str) -> int:
        """The shard of a user or unit."""
        return zlib.crc32(owner.encode()) % self.shards

    def events(self, shard: int) -> str:
        """The stream of a shard."""
        return self._events[shard]

    def events_of(self, user_id: str) -> str:
        """The stream that a user's events are in."""
        return self.events(self.shard_of(user_id))

    def value(self, shard: int, kind: Literal["history", "views"], user_id: str) -> str:
        """What a user of a shard did, or what of it is only logged."""
        return self._tagged(shard, kind, user_id)

    def history(self, user_id: str) -> str:
        """A user's history."""
        return self._tagged(self.shard_of(user_id), "history", user_id)

    def views(self, user_id: str) -> str:
        """A user's events that are only logged."""
        return self._tagged(self.shard_of(user_id), "views", user_id)

    def arms(self, unit: str) -> str:
        """The arms that a unit keeps."""
        return self._tagged(self.shard_of(unit), "arms", unit)

    def popularity(self, shard: int, hour: int) -> str:
        """What a shard's users watched in one hour."""
        return self._tagged(shard, "popularity", str(hour))

    def _tagged(self, shard: int, kind: str, name: str) -> str:
        return f"{self._tags[shard]}:{kind}:{name}"


def tag_of(key: str) -> str:
    """What of a key decides its slot."""
    return key[: key.find("}")]
