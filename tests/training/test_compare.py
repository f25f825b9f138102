from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_fit import run_fit

from lsvcr.errors import DataError
from training.compare import System, bootstrap_interval, compare
from training.evaluate import evaluate_run


def test_the_interval_of_a_mean_is_that_of_theory():
    difference_S = np.random.default_rng(1).normal(0.3, 2.0, 4000)
    low, high = bootstrap_interval(difference_S, seed=0)
    error = 1.96 * difference_S.std() / np.sqrt(4000)
    assert low == pytest.approx(difference_S.mean() - error, abs=0.01)
    assert high == pytest.approx(difference_S.mean() + error, abs=0.01)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    held = 0
    for seed in range(200):
        difference_S = np.random.default_rng(seed).normal(0.1, 1.0, 60)
        low, high = bootstrap_interval(difference_S, seed=seed)
        held += low <= 0.1 <= high
    assert 180 <= held <= 198


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    run, prepared, text = run_fit(folder, "fit.epochs=1")
    return folder, evaluate_run(prepared, text, run, folder)


def test_a_run_equals_itself(evaluated):
    folder, metrics = evaluated
    rows = list(compare(System((folder,)), System((folder,))))
    assert {(row.task, row.ranking) for row in rows} == {
        ("video", "sampled"),
        ("video", "popular"),
        ("video", "full"),
        ("comment", "thread"),
    }
    for row in rows:
        assert (row.low, row.high, row.is_clear) == (0, 0, False)
        assert row.first == pytest.approx(metrics[row.task][row.ranking][row.metric])


def test_a_model_is_compared_with_a_baseline_of_its_run(evaluated):
    folder, metrics = evaluated
    for row in compare(System((folder,), "popularity"), System((folder,))):
        baseline = metrics["baselines"]["popularity"][row.task][row.ranking][row.metric]
        assert row.first == pytest.approx(baseline)
        assert row.low <= row.second - row.first <= row.high


def test_an_unknown_system_is_refused_with_the_known_ones(evaluated):
    folder, _ = evaluated
    with pytest.raises(DataError, match="it has model, popularity, prior_and_profile"):
        list(compare(System((folder,), "oracle"), System((folder,))))


def write_run(folder: Path, ndcg_of_user: dict[str, float]) -> Path:
    folder.mkdir()
    rows = [
        {"system": "model", "task": "video", "ranking": "full", "user_id": user}
        | {"ndcg@10": value, "recall@10": float(value > 0)}
        for user, value in ndcg_of_user.items()
    ]
    pl.DataFrame(rows).write_parquet(folder / "users.parquet")
    return folder


def test_runs_of_several_seeds_count_as_the_mean_of_each_user(tmp_path: Path) -> None:
    one = write_run(tmp_path / "1", {"a": 0.2, "b": 0.0, "c": 1.0})
    two = write_run(tmp_path / "2", {"a": 0.6, "b": 0.5})
    other = write_run(tmp_path / "3", {"a": 0.5, "b": 0.75, "c": 0.0})
    ndcg, recall = compare(System((one, two)), System((other,)))
    assert (ndcg.users, ndcg.first, ndcg.second) == (2, 0.325, 0.625), "user c lacks a seed"
    assert (recall.first, recall.second) == (0.75, 1.0)
    assert (ndcg.low, ndcg.high) == pytest.approx((0.1, 0.5)), "of the users' +.1 and +.5"
