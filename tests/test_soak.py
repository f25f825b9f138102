"""How a soak's figures are judged: by figures that can be computed by hand."""

import os
import socket
from typing import Any

import numpy as np
import pytest

from faults.open_descriptors import Descriptors, count_descriptors
from faults.soak import Look, judge, measure_growth, summarise_halves

GOOD: dict[str, Any] = {
    "minutes": 30.0,
    "memory_percent_per_hour": 0.4,
    "descriptors": {"callers": (9, 20, 33), "to_store": (5, 30, 72), "others": (57, 57, 99)},
    "p99_of_30_s_ms": [20.0, 24.0],
    "not_answered_well": 0,
    "events_lost": 0,
}


def test_growth_is_the_slope_after_warm_up_and_descriptors_are_the_fewest() -> None:
    """1 MB more each 360 s on 100 MB at the middle: 10 MB an hour, 10 %; the first quarter not."""
    looks = [Look(at_s, 10**9, Descriptors(1, 1, 500)) for at_s in range(0, 1000, 10)]
    looks += [
        Look(
            at_s,
            100_000_000 + round((at_s - 2500) * 1e6 / 360),
            Descriptors(9 if at_s < 2500 else 12, 5, 70 + 42 * (at_s == 1500)),
        )
        for at_s in range(1010, 4000, 10)
    ]
    grown = measure_growth(looks, 4000)
    assert grown["memory_percent_per_hour"] == pytest.approx(10.0, abs=0.01)
    assert grown["descriptors"] == {
        "callers": (9, 12, 12),
        "to_store": (5, 5, 5),
        "others": (70, 70, 500),
    }


def test_a_disturbance_of_one_window_is_no_trend() -> None:
    """800 s: after 200 s of warm-up ten windows of 30 s a half, with 10 ms and once with 500 ms."""
    at_s_N = np.arange(1, 8000) / 10
    latency_ms_N = np.where(at_s_N <= 200, 1000.0, 10.0)
    latency_ms_N[(at_s_N > 530) & (at_s_N <= 560)] = 500.0
    found = summarise_halves(at_s_N, latency_ms_N, 800)
    assert found["p50_p99_ms_first_half"] == [10.0, 10.0]
    assert found["p50_p99_ms_second_half"] == [10.0, 500.0]
    assert found["p99_of_30_s_ms"] == [10.0, 10.0]
    latency_ms_N[at_s_N > 500] += 3.0  # what lasts is one
    assert summarise_halves(at_s_N, latency_ms_N, 800)["p99_of_30_s_ms"] == [10.0, 13.0]


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({}, []),
        ({"memory_percent_per_hour": 1.2}, ["memory grows by 1.2 % an hour"]),
        ({"memory_percent_per_hour": 1.2, "minutes": 5.0}, []),
        ({"others": (57, 58, 99)}, ["1 more descriptors"]),
        ({"callers": (9, 9, 65)}, ["65 connections of callers"]),
        ({"to_store": (5, 5, 73)}, ["73 connections to the store"]),
        ({"p99_of_30_s_ms": [20.0, 26.0]}, ["p99 went from 20.0 to 26.0 ms"]),
        ({"not_answered_well": 1}, ["1 not answered well"]),
        ({"events_lost": 2}, ["2 accepted events lost"]),
    ],
)
def test_each_goal_that_is_missed_is_named(worse: dict[str, Any], missed: list[str]) -> None:
    kinds = GOOD["descriptors"]
    descriptors = kinds | {kind: worse[kind] for kind in kinds.keys() & worse.keys()}
    assert judge({**GOOD, **worse, "descriptors": descriptors}) == missed


def test_descriptors_are_counted_by_whom_they_are_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("", 0)) as store:
        port, store_port = server.getsockname()[1], store.getsockname()[1]
        before = count_descriptors(os.getpid(), port=port, store_port=store_port)
        with (
            socket.create_connection(("127.0.0.1", port)),
            server.accept()[0],
            socket.create_connection(("127.0.0.1", store_port)),
            store.accept()[0],
        ):
            after = count_descriptors(os.getpid(), port=port, store_port=store_port)
    assert (before.callers, before.to_store) == (0, 0)
    # The far ends, of a caller and of the store, are this process's too, and neither's.
    assert after == Descriptors(1, 1, before.others + 2)
