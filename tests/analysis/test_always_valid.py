from math import exp, log, sqrt

import numpy as np
import pytest

from analysis.always_valid import p_value, radius, tuned_rho


def test_the_radius_is_the_formula_by_hand() -> None:
    # n rho² = 1: sqrt(2 · 2/1 · log(sqrt 2 / 0.05))
    assert radius(100, alpha=0.05, rho=0.1) == pytest.approx(sqrt(4 * log(sqrt(2) / 0.05)))


def test_the_p_value_is_alpha_where_the_interval_touches_zero() -> None:
    for alpha in (0.2, 0.05, 0.001):
        for units in (10, 1_000, 100_000):
            touching = radius(units, alpha=alpha, rho=0.03)
            assert p_value(touching, units, rho=0.03) == pytest.approx(alpha)
    assert p_value(0.0, 1_000, rho=0.03) == 1
    assert p_value(2.0, 100, rho=0.1) == pytest.approx(sqrt(2) * exp(-1))


def test_the_interval_is_narrowest_about_where_it_was_planned() -> None:
    planned = [
        radius(5_000, alpha=0.05, rho=tuned_rho(0.05, size)) for size in (50, 5_000, 500_000)
    ]
    assert planned[1] < planned[0] and planned[1] < planned[2]
    # n rho² = 5.991 + log(6.991) = 7.936; sqrt(2 · 8.936 / 7.936 · log(sqrt 8.936 / 0.05))
    assert planned[1] == pytest.approx(3.035, abs=1e-3)  # against 1.96 for a single look


def test_always_valid_holds_where_looking_again_and_again_breaks_the_fixed_horizon() -> None:
    rng = np.random.default_rng(5)
    runs, looks, batch, alpha = 600, 100, 50, 0.05
    rho = tuned_rho(alpha, 2_000)
    sum_RL = rng.normal(0, sqrt(batch), (runs, looks)).cumsum(axis=1)
    size_L = batch * np.arange(1, looks + 1)
    statistic_RL = np.abs(sum_RL / np.sqrt(size_L))
    radius_L = np.array([radius(int(size), alpha=alpha, rho=rho) for size in size_L])
    always = (statistic_RL > radius_L).any(axis=1).mean()
    fixed = (statistic_RL > 1.96).any(axis=1).mean()
    assert always <= alpha + 3 * sqrt(alpha * (1 - alpha) / runs)
    assert fixed > 0.25
