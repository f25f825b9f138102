import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lsvcr.metrics import (
    mean_metrics,
    rank_single,
    sample_metrics_of_ranks,
    sample_metrics_of_scores,
)


def metrics_of_ranks(rank_S):
    return mean_metrics(sample_metrics_of_ranks(rank_S))


def metrics_of_scores(score_SN, is_positive_SN, is_candidate_SN):
    return mean_metrics(sample_metrics_of_scores(score_SN, is_positive_SN, is_candidate_SN))


@pytest.mark.parametrize(
    ("rank", "k", "recall", "ndcg", "mrr"),
    [
        (1, 1, 1, 1, 1),
        (2, 1, 0, 0, 0),
        (2, 5, 1, 1 / math.log2(3), 1 / 2),
        (5, 5, 1, 1 / math.log2(6), 1 / 5),
        (6, 5, 0, 0, 0),
        (6, 10, 1, 1 / math.log2(7), 1 / 6),
        (11, 10, 0, 0, 0),
    ],
)
def test_one_positive_at_a_rank(rank, k, recall, ndcg, mrr):
    metrics = metrics_of_ranks(np.array([rank]))
    assert metrics[f"recall@{k}"] == pytest.approx(recall)
    assert metrics[f"ndcg@{k}"] == pytest.approx(ndcg)
    assert metrics[f"mrr@{k}"] == pytest.approx(mrr)
    assert metrics["users"] == 1


def test_two_positives_among_four_candidates():
    # Sorted: b (positive), a, d (positive), c; the fifth column is no candidate.
    scores = np.array([[0.8, 0.9, 0.1, 0.3, 9.0]])
    positives = np.array([[False, True, False, True, True]])
    candidates = np.array([[True, True, True, True, False]])
    metrics = metrics_of_scores(scores, positives, candidates)
    best = 1 + 1 / math.log2(3)
    assert metrics["recall@1"] == pytest.approx(1 / 2)
    assert metrics["recall@5"] == pytest.approx(1)
    assert metrics["ndcg@1"] == pytest.approx(1)
    assert metrics["ndcg@5"] == pytest.approx((1 + 1 / math.log2(4)) / best)
    assert metrics["mrr@5"] == pytest.approx(1)


def test_more_positives_than_the_cutoff_cannot_reach_recall_one_but_ndcg_one():
    metrics = metrics_of_scores(np.ones((1, 3)), np.ones((1, 3), bool), np.ones((1, 3), bool))
    assert metrics["recall@1"] == pytest.approx(1 / 3)
    assert metrics["ndcg@1"] == pytest.approx(1)


def test_a_constant_model_scores_nothing_on_ties():
    scores = np.zeros((4, 101))
    positives = np.zeros((4, 101), bool)
    positives[:, 0] = True
    candidates = np.ones((4, 101), bool)
    assert rank_single(scores, np.zeros(4, np.int64), candidates).tolist() == [101] * 4
    assert metrics_of_scores(scores, positives, candidates)["recall@10"] == 0


def test_samples_without_a_positive_are_left_out():
    positives = np.array([[True, False], [False, False]])
    metrics = metrics_of_scores(np.array([[1.0, 0.0]] * 2), positives, np.ones((2, 2), bool))
    assert metrics["users"] == 1
    assert metrics["recall@1"] == 1


def test_no_samples_give_zeros():
    assert metrics_of_ranks(np.array([], np.int64))["recall@10"] == 0
    empty = np.zeros((0, 3), bool)
    assert metrics_of_scores(np.zeros((0, 3)), empty, empty)["users"] == 0


@given(
    hnp.arrays(
        np.int8, st.tuples(st.integers(1, 5), st.integers(1, 30)), elements=st.integers(0, 4)
    )
)
def test_one_positive_by_scores_equals_its_rank(scores):
    candidates = np.ones(scores.shape, bool)
    positives = np.zeros(scores.shape, bool)
    positives[:, 0] = True
    ranks = rank_single(scores, np.zeros(len(scores), np.int64), candidates)
    assert metrics_of_scores(scores, positives, candidates) == pytest.approx(
        metrics_of_ranks(ranks)
    )
