"""Counts in plain numbers first, and in Prometheus' counters now and then.

A step of a counter that worker processes share goes to a mapped file and costs 1.5 us; an answer
takes thirty of them.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from prometheus_client import Counter, Histogram


class BulkHistogram(Histogram):
    """A histogram that takes many values at once."""

    def observe_all(self, values: Sequence[float]) -> None:
        """Observe each of some numbers, none of them NaN."""
        bucket_N = np.searchsorted(self._upper_bounds, values)
        for bucket, count in enumerate(np.bincount(bucket_N).tolist()):
            if count:
                self._buckets[bucket].inc(count)
        self._sum.inc(float(np.sum(values)))


class Tally:
    """What was counted since it was settled last. Belongs to one event loop."""

    def __init__(self) -> None:
        self._steps: defaultdict[Counter, float] = defaultdict(float)
        self._values: defaultdict[BulkHistogram, list[float]] = defaultdict(list)

    def count(self, counter: Counter, amount: float = 1) -> None:
        """Let a counter go up by an amount."""
        self._steps[counter] += amount

    def observe(self, histogram: BulkHistogram, value: float) -> None:
        """Let a histogram see a number."""
        self._values[histogram].append(value)

    def settle(self) -> None:
        """Tell the counters and histograms; nothing is left to tell."""
        for counter, amount in self._steps.items():
            counter.inc(amount)
        for histogram, values in self._values.items():
            histogram.observe_all(values)
        self._steps.clear()
        self._values.clear()
