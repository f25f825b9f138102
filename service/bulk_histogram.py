"""A histogram that takes many values at once.

A step of a counter that worker processes share goes to a mapped file and costs 1.5 us; an answer
takes thirty of them. So what is seen is noted first, and told to Prometheus together.
"""

from collections.abc import Sequence

import numpy as np
from prometheus_client import Histogram


class BulkHistogram(Histogram):
    """As Prometheus' own, which takes one value after the other."""

    def observe_all(self, values: Sequence[float]) -> None:
        """Observe each of some numbers, none of them NaN."""
        bucket_N = np.searchsorted(self._upper_bounds, values)
        for bucket, count in enumerate(np.bincount(bucket_N).tolist()):
            if count:
                self._buckets[bucket].inc(count)
        self._sum.inc(float(np.sum(values)))
