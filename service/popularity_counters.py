"""What is watched, counted by hour in the store.

Each shard has a hash an hour (store_keys.py): item hash (8 bytes, little-endian) -> video events,
and under `ALL` their sum, which tells readers whether an hour has changed. Hours count from 1970,
in UTC, by the event's own time. `history_append.lua` counts an event in the moment it is accepted;
one beside another of the same user on the same video is no further choice, there as in training.
Erasing a user does not count back: the counters don't know whose they are.

Shape suffixes: E different videos in one hour, N counters of several hashes or pages.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

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


def decode_page(page: Mapping[bytes, bytes]) -> CountsByHash:
    """Some of one hash's counters, as arrays: small objects by the thousand take long to free."""
    counts = {name: int(count) for name, count in page.items() if name != ALL}
    return np.frombuffer(b"".join(counts), "<u8"), np.array([*counts.values()], np.int64)


def add_up(shards: Sequence[Sequence[CountsByHash]]) -> CountsByHash:
    """One hour's counts, from each shard's pages; of what is in two pages, the later count."""
    of_each = [_latest(*_join(pages)) for pages in shards]
    hash_N, count_N = _join(of_each)
    hash_E, place_N = np.unique(hash_N, return_inverse=True)
    count_E = np.zeros(len(hash_E), np.int64)
    np.add.at(count_E, place_N, count_N)
    return hash_E, count_E


def _join(parts: Sequence[CountsByHash]) -> CountsByHash:
    return (
        np.concatenate([np.empty(0, np.uint64), *(hash_E for hash_E, _ in parts)]),
        np.concatenate([np.empty(0, np.int64), *(count_E for _, count_E in parts)]),
    )


def _latest(hash_N: NDArray[np.uint64], count_N: NDArray[np.int64]) -> CountsByHash:
    hash_E, place_E = np.unique(hash_N[::-1], return_index=True)
    return hash_E, count_N[::-1][place_E]
