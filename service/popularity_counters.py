"""What is watched, counted by day in the store.

    lsvcr:popularity:DAY   a hash: item hash (8 bytes, little-endian) -> video events on that day

DAY counts from 1970, in UTC, by the event's own time. `history_append.lua` counts an event in the
moment it is accepted; one beside another of the same user on the same video is no further choice,
there as in training. Erasing a user does not count back: the counters don't know whose they are.

Shape suffixes: E different videos on one day.
"""

from collections.abc import Mapping

import numpy as np

from service.engine.popularity_prior import DayCounts

DAY_S = 86_400
DAYS = 60
"""Days that are read. What is older has lost most of its weight: 7/8 with 20 days' half-life."""
EXPIRY_S = 90 * DAY_S


def counters_key(day: int) -> str:
    """Name the hash that counts one day."""
    return f"lsvcr:popularity:{day}"


def counted_days(now_s: float) -> range:
    """Days whose events are counted: those that are read, today, and tomorrow for fast clocks."""
    today = int(now_s // DAY_S)
    return range(today - DAYS, today + 2)


def decode_counters(fields: Mapping[bytes, bytes]) -> DayCounts:
    """Read one day's hash."""
    hash_E = np.frombuffer(b"".join(fields), "<u8").astype(np.uint64)
    return hash_E, np.fromiter(map(int, fields.values()), np.int64, len(fields))
