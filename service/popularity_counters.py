"""What is watched, counted by hour in the store.

    lsvcr:popularity:HOUR  a hash: item hash (8 bytes, little-endian) -> video events in that hour

HOUR counts from 1970, in UTC, by the event's own time. `history_append.lua` counts an event in the
moment it is accepted; one beside another of the same user on the same video is no further choice,
there as in training. Erasing a user does not count back: the counters don't know whose they are.

Shape suffixes: E different videos in one hour.
"""

from collections.abc import Mapping

import numpy as np

from lsvcr.popularity import HOURS_A_DAY
from service.engine.popularity_prior import CountsByHash

HOUR_S = 3600
HOURS = 60 * HOURS_A_DAY
"""Hours that are read: they add what came since a bundle was made to its seed."""
EXPIRY_S = 90 * HOURS_A_DAY * HOUR_S


def counters_key(hour: int) -> str:
    """Name the hash that counts one hour."""
    return f"lsvcr:popularity:{hour}"


def counted_hours(now_s: float) -> range:
    """Hours whose events are counted: those that are read, and a day ahead for fast clocks."""
    now = int(now_s // HOUR_S)
    return range(now - HOURS, now + 1 + HOURS_A_DAY)


def decode_counters(fields: Mapping[bytes, bytes]) -> CountsByHash:
    """Read one hour's hash."""
    hash_E = np.frombuffer(b"".join(fields), "<u8").astype(np.uint64)
    return hash_E, np.fromiter(map(int, fields.values()), np.int64, len(fields))
