"""Expectations of a random order against all orders, counted one by one."""

from itertools import permutations

import numpy as np
import pytest

from lsvcr.metrics import sample_metrics_of_scores
from training.chance import expected_metrics


@pytest.mark.parametrize(("positives", "candidates"), [(1, 1), (1, 6), (2, 6), (4, 6), (6, 6)])
def test_the_expectation_is_the_mean_over_all_orders(positives, candidates):
    score_SN = np.array(list(permutations(range(candidates))), float)
    is_positive_SN = np.broadcast_to(np.arange(candidates) < positives, score_SN.shape)
    counted = sample_metrics_of_scores(score_SN, is_positive_SN, np.ones(score_SN.shape, bool))
    expected = expected_metrics(np.array([positives]), np.array([candidates]))
    assert expected.keys() == counted.keys()
    for name, values in counted.items():
        assert expected[name][0] == pytest.approx(values.mean()), name


def test_one_positive_of_a_hundred_by_hand():
    expected = expected_metrics(np.array([1]), np.array([100]))
    assert expected["recall@10"][0] == pytest.approx(0.1)
    gain = sum(1 / np.log2(rank + 1) for rank in range(1, 11))
    assert expected["ndcg@10"][0] == pytest.approx(gain / 100)
