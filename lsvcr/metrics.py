"""Recall, NDCG and MRR, with ties broken against the model.

Shape suffixes: S samples (users), N candidates.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (1, 5, 10)


def rank_single(
    score_SN: NDArray[Any], positive_S: NDArray[np.integer[Any]], is_candidate_SN: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Rank of each sample's one positive: 1 + candidates that score at least as much.

    Args:
        score_SN: Higher is better.
        positive_S: Column of the positive; it must be a candidate.
        is_candidate_SN: Which columns compete; broadcast over S if of shape (1, N).
    """
    score_S1 = np.take_along_axis(score_SN, positive_S[:, None], axis=1)
    rank_S: NDArray[np.int64] = np.count_nonzero(
        (score_SN >= score_S1) & is_candidate_SN, axis=1
    ).astype(np.int64)
    return rank_S


def sample_metrics_of_ranks(rank_S: NDArray[np.integer[Any]]) -> dict[str, NDArray[np.float64]]:
    """Metrics where each sample has one positive, at the given rank (1 is best).

    Returns:
        `recall@k`, `ndcg@k`, `mrr@k` for k in `CUTOFFS`, each of shape (S,).
    """
    metrics = {}
    for k in CUTOFFS:
        is_hit_S = rank_S <= k
        metrics[f"recall@{k}"] = is_hit_S.astype(np.float64)
        metrics[f"ndcg@{k}"] = np.where(is_hit_S, 1 / np.log2(rank_S + 1), 0.0)
        metrics[f"mrr@{k}"] = np.where(is_hit_S, 1 / rank_S, 0.0)
    return metrics


def sample_metrics_of_scores(
    score_SN: NDArray[np.floating[Any]],
    is_positive_SN: NDArray[np.bool_],
    is_candidate_SN: NDArray[np.bool_],
) -> dict[str, NDArray[np.float64]]:
    """Metrics where samples may have several positives among their candidates.

    Recall@k counts hits over all P positives (so it can't reach 1 where P > k); DCG@k sums
    1 / log2(rank + 1) over hits and NDCG@k divides by its best value, with min(k, P) hits;
    MRR@k is 1 / rank of the first hit within k. Samples without a positive are left out.

    Source:
        docs/model.md, Evaluation. Ties: by (score descending, positives last).
    """
    is_positive_SN = is_positive_SN & is_candidate_SN
    has_positive_S = is_positive_SN.any(axis=1)
    score_SN = score_SN[has_positive_S]
    is_positive_SN, is_candidate_SN = (
        is_positive_SN[has_positive_S],
        is_candidate_SN[has_positive_S],
    )
    order_SN = np.lexsort((is_positive_SN, -score_SN, ~is_candidate_SN), axis=1)
    is_hit_SN = np.take_along_axis(is_positive_SN, order_SN, axis=1)
    positives_S = is_positive_SN.sum(axis=1)
    discount_N = 1 / np.log2(np.arange(2, is_hit_SN.shape[1] + 2))
    best_P1 = np.concatenate([[0.0], np.cumsum(discount_N)])
    first_rank_S = is_hit_SN.argmax(axis=1) + 1 if is_hit_SN.size else np.zeros(0, np.int64)
    metrics = {}
    for k in CUTOFFS:
        hits_Sk = is_hit_SN[:, :k]
        metrics[f"recall@{k}"] = hits_Sk.sum(axis=1) / positives_S
        dcg_S = (hits_Sk * discount_N[:k]).sum(axis=1)
        metrics[f"ndcg@{k}"] = dcg_S / best_P1[np.minimum(k, positives_S)]
        metrics[f"mrr@{k}"] = np.where(first_rank_S <= k, 1 / first_rank_S, 0.0)
    return metrics


def mean_metrics(metrics: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Mean of every metric, and `users`, the number of samples; zeros without samples."""
    users = len(next(iter(metrics.values())))
    means = {name: float(values.mean()) if users else 0.0 for name, values in metrics.items()}
    return {**means, "users": users}
