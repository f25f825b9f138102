"""What is counted together, against what is counted step by step."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from service.tally import BulkHistogram, Tally

BUCKETS = (-1.0, 0.0, 0.5, 1.0)
VALUES = st.lists(st.sampled_from(BUCKETS) | st.integers(-8, 8).map(lambda n: n / 4), max_size=40)


@given(VALUES, st.lists(st.integers(0, 5), max_size=5))
def test_together_counters_and_histograms_tell_the_same(
    values: list[float], amounts: list[int]
) -> None:
    singly, together = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("seen", "Seen.", buckets=BUCKETS, registry=singly)
    counter = Counter("steps", "Steps.", registry=singly)
    for value in values:
        histogram.observe(value)
    for amount in amounts:
        counter.inc(amount)

    tally = Tally()
    bulk = BulkHistogram("seen", "Seen.", buckets=BUCKETS, registry=together)
    steps = Counter("steps", "Steps.", registry=together)
    for value in values:
        tally.observe(bulk, value)
    for amount in amounts:
        tally.count(steps, amount)
    tally.settle()
    tally.settle()  # has nothing left to tell
    assert told(together) == told(singly)


def told(registry: CollectorRegistry) -> list[str]:
    """The registry's lines without the times of creation."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]
