"""What is observed together, against what is observed one by one."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from service.bulk_histogram import BulkHistogram

BUCKETS = (-1.0, 0.0, 0.5, 1.0)
VALUES = st.lists(st.sampled_from(BUCKETS) | st.integers(-8, 8).map(lambda n: n / 4), max_size=40)


@given(VALUES)
def test_together_a_histogram_tells_the_same(values: list[float]) -> None:
    singly, together = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("seen", "Seen.", buckets=BUCKETS, registry=singly)
    for value in values:
        histogram.observe(value)
    bulk = BulkHistogram("seen", "Seen.", buckets=BUCKETS, registry=together)
    bulk.observe_all(values)
    bulk.observe_all([])
    assert told(together) == told(singly)


def told(registry: CollectorRegistry) -> list[str]:
    """The registry's lines without the times of creation."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]
