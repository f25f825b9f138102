"""How a soak's figures are judged: by figures that can be computed by hand."""

from typing import Any

import pytest

from faults.soak import Look, judge, measure_growth

GOOD: dict[str, Any] = {
    "minutes": 30.0,
    "memory_percent_per_hour": 0.4,
    "descriptors_warm": 70,
    "descriptors_last": 71,
    "p50_p99_ms_first_half": [5.0, 20.0],
    "p50_p99_ms_second_half": [5.0, 24.0],
    "not_answered_well": 0,
    "events_lost": 0,
}


def test_growth_is_the_slope_after_warm_up_and_descriptors_are_the_fewest() -> None:
    """1 MB more each 360 s on 100 MB at the middle: 10 MB an hour, 10 %; the first quarter not."""
    looks = [Look(at_s, 10**9, 500) for at_s in range(0, 1000, 10)]
    looks += [
        Look(at_s, 100_000_000 + round((at_s - 2500) * 1e6 / 360), 70 + (at_s == 1500))
        for at_s in range(1010, 4000, 10)
    ]
    grown = measure_growth(looks, 4000)
    assert grown["memory_percent_per_hour"] == pytest.approx(10.0, abs=0.01)
    assert (grown["descriptors_warm"], grown["descriptors_last"]) == (70, 70)
    assert grown["descriptors_most"] == 500


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({}, []),
        ({"memory_percent_per_hour": 1.2}, ["memory grows by 1.2 % an hour"]),
        ({"memory_percent_per_hour": 1.2, "minutes": 5.0}, []),
        ({"descriptors_last": 75}, ["5 more descriptors"]),
        ({"p50_p99_ms_second_half": [5.0, 26.0]}, ["p99 went from 20.0 to 26.0 ms"]),
        ({"not_answered_well": 1}, ["1 not answered well"]),
        ({"events_lost": 2}, ["2 accepted events lost"]),
    ],
)
def test_each_goal_that_is_missed_is_named(worse: dict[str, Any], missed: list[str]) -> None:
    assert judge({**GOOD, **worse}) == missed
