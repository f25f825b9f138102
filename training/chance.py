"""What a random order of the candidates is expected to reach, in closed form.

Shape suffix: S samples.
"""

import numpy as np
from numpy.typing import NDArray

from lsvcr.metrics import CUTOFFS


def expected_metrics(
    positives_S: NDArray[np.integer], candidates_S: NDArray[np.integer]
) -> dict[str, NDArray[np.float64]]:
    """Expectations of `lsvcr.metrics` over all orders of n candidates, P of them positive.

    Args:
        positives_S: P, at least 1.
        candidates_S: n, at least P.

    Returns:
        `recall@k`, `ndcg@k`, `mrr@k` for k in `CUTOFFS`, each of shape (S,). A place holds a
        positive with probability P / n; the first positive has rank r with probability
        P / (n - r + 1) * prod_{i < r} (1 - P / (n - i + 1)).
    """
    share_S = positives_S / candidates_S
    discount_K = 1 / np.log2(np.arange(2, max(CUTOFFS) + 2))
    best_K1 = np.concatenate([[0.0], np.cumsum(discount_K)])
    rank_K = np.arange(1, max(CUTOFFS) + 1)
    left_SK = candidates_S[:, None] - rank_K + 1
    next_SK = np.clip(positives_S[:, None] / np.maximum(1, left_SK), 0, 1)
    none_SK = np.cumprod(1 - next_SK, axis=1)
    first_SK = next_SK * np.concatenate([np.ones((len(share_S), 1)), none_SK[:, :-1]], axis=1)
    metrics = {}
    for k in CUTOFFS:
        places_S = np.minimum(k, candidates_S)
        metrics[f"recall@{k}"] = places_S / candidates_S
        metrics[f"ndcg@{k}"] = share_S * best_K1[places_S] / best_K1[np.minimum(k, positives_S)]
        metrics[f"mrr@{k}"] = (first_SK[:, :k] / rank_K[:k]).sum(1)
    return metrics
