"""What is watched, counted by hour in the store.

Each shard has a hash an hour (store_keys.py): item hash (8 bytes, little-endian) -> video events,
and under `ALL` their sum, which tells readers whether an hour has changed. Hours count from 1970,
in UTC, by the event's own time. `history_append.lua` counts an event in the moment it is accepted;
one beside another of the same user on the same video is no further choice, there as in training.
Erasing a user does not count back: the counters don't know whose they are.

Shape suffixes: E different videos in one hour.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lsvcr.popularity import HOURS_A_DAY
from service.engine.popularity_prior import CountsByHash

HOUR_S = 3600
HOURS = 60 * HOURS_A_DAY
"""Hours that are read: they add what came since a bundle was made to its seed."""
EXPIRY_S = 90 * HOURS_A_DAY * HOUR_S

ALL = b"\xff" * 8
"""No item's hash. Missing or less than the sum where an older service has counted."""


def counted_hours(now_s: float) -> range:
    """Hours whose events are counted: those that are read, and a day ahead for fast clocks."""
    now = int(now_s // HOUR_S)
    return range(now - HOURS, now + 1 + HOURS_A_DAY)


def decode_counters(shards: Sequence[Mapping[bytes, bytes]]) -> CountsByHash:
    """Add up one hour's hashes."""
    fields = [name for shard in shards for name in shard if name != ALL]
    counts = [int(count) for shard in shards for name, count in shard.items() if name != ALL]
    hash_E, place_N = np.unique(np.frombuffer(b"".join(fields), "<u8"), return_inverse=True)
    count_E = np.zeros(len(hash_E), np.int64)
    np.add.at(count_E, place_N, counts)
    return hash_E.astype(np.uint64), count_E
