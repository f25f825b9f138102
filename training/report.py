"""A run's main metrics as rows, for the terminal."""

from typing import Any

from training.html_report import RANKINGS

COLD_RANKINGS = (("video", "cold"), ("video", "cold_full"), ("comment", "cold"))
"""Of runs with `data.cold_videos`."""


def summary_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """Recall@10 and NDCG@10 of the model and each baseline: a header, then a row per figure."""
    models = {"model": metrics, **metrics["baselines"]}
    rows = [["", "users", *models]]
    for task, kind in (*RANKINGS.values(), *COLD_RANKINGS):
        if kind not in metrics.get(task, {}):
            continue
        users = f"{metrics[task][kind]['users']:,.0f}"
        for key in ("recall@10", "ndcg@10"):
            values = (f"{model[task][kind][key]:.4f}" for model in models.values())
            rows.append([f"{task} {kind} {key}", users, *values])
    return rows
