import pytest
import torch
from together import run_together
from worlds import config, fit_world, prepared_world, read_log, rows_of

from lsvcr.errors import DataError
from training.checkpoint import load_recommender, read_checkpoint, write_checkpoint
from training.evaluate import Evaluation, evaluate_run
from training.score_parts import ScoreParts
from training.scorers import ModelScorer

RUN = ("fit.epochs=4", "fit.patience=9", "fit.device=cpu")


def run_fit(folder, *assignments, seed=5):
    return fit_world(folder, *RUN, *assignments, seed=seed)


def outcome(folder):
    return [(entry["epoch"], entry["losses"], entry["validation"]) for entry in read_log(folder)]


def test_the_same_seed_gives_the_same_run_and_learns(tmp_path):
    run_fit(tmp_path / "one")
    run_fit(tmp_path / "two")
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")
    losses = [entry["losses"]["total"] for entry in read_log(tmp_path / "one")]
    assert losses[-1] < losses[0]


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path):
    run_fit(tmp_path / "whole")
    run_fit(tmp_path / "parts", "fit.epochs=2")
    run_fit(tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    whole, parts = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.safetensors")[0]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


MANY_STEPS = (
    "fit.batch_rows=4", "fit.epochs=8", "model.dropout=0", "model.prior_half_lives_days=[]",
)  # fmt: skip


@pytest.mark.parametrize("negatives", ["all", "6"])
def test_two_processes_come_to_what_one_does_and_go_on_where_two_or_one_stopped(
    tmp_path, negatives
):
    settings = (*MANY_STEPS, f"fit.video_negatives={negatives}")
    run, prepared, _ = run_fit(tmp_path / "one", *settings)
    rows = rows_of(prepared, run, "prefix")
    assert len(rows.batches(4, 0)) * 8 > 50
    run_together(2, run_fit, tmp_path / "two", *settings)
    run_fit(tmp_path / "parts", *settings, "fit.epochs=2")
    run_together(2, run_fit, tmp_path / "parts", *settings, "fit.epochs=4")
    run_fit(tmp_path / "parts", *settings)
    expected = read_log(tmp_path / "one")
    for folder in (tmp_path / "two", tmp_path / "parts"):
        entries = read_log(folder)
        assert [entry["epoch"] for entry in entries] == list(range(1, 9))
        for entry, one in zip(entries, expected, strict=True):
            assert entry["losses"] == pytest.approx(one["losses"], abs=1e-4)
            for task, ranking in (("video", "sampled"), ("video", "full"), ("comment", "thread")):
                assert entry["validation"][task][ranking] == pytest.approx(
                    one["validation"][task][ranking], abs=0.02
                )
                users = entry["validation"][task][ranking]["users"]
                assert users == one["validation"][task][ranking]["users"], "nobody counts twice"
        weights = trained_weights(folder)
        for name, weight in trained_weights(tmp_path / "one").items():
            torch.testing.assert_close(weights[name], weight, atol=1e-3, rtol=1e-2)


def trained_weights(folder):
    """All but what a softmax cancels, whose gradient is rounding alone."""
    weights, _ = read_checkpoint(folder / "checkpoints" / "last.safetensors")
    return {
        name: weight
        for name, weight in weights.items()
        if name.startswith("model.") and not name.endswith(("key.bias", "pool_score.bias"))
    }


def test_processes_that_cannot_share_a_batch_are_refused(tmp_path):
    run_together(2, fit_odd_batches, tmp_path / "run")


def fit_odd_batches(folder):
    with pytest.raises(DataError, match=r"fit.batch_rows: a batch of 7 cannot be shared equally"):
        run_fit(folder, "fit.batch_rows=7")


@pytest.mark.parametrize("task", ["video", "comment"])
def test_one_task_can_be_trained_alone(tmp_path, task):
    run_fit(tmp_path / task, f"fit.task={task}", "fit.epochs=1")
    other = {"video": "comment", "comment": "video"}[task]
    losses = read_log(tmp_path / task)[0]["losses"]
    assert task in losses
    assert other not in losses


def test_one_target_per_row_trains_too(tmp_path):
    run_fit(tmp_path / "single", "fit.targets=single", "fit.epochs=1")
    assert read_log(tmp_path / "single")[0]["losses"]["video"] > 0


def test_stops_when_validation_no_longer_improves(tmp_path):
    run_fit(tmp_path / "run", "fit.learning_rate=1e-9", "fit.epochs=30", "fit.patience=2")
    entries = read_log(tmp_path / "run")
    best = max(entry["epoch"] for entry in entries if entry["is_best"])
    assert entries[-1]["epoch"] == best + 2


def test_test_metrics_come_from_the_best_checkpoint_beside_the_baselines(tmp_path):
    parts_on = ("model.prior_half_lives_days=[7]", "model.profile_events=200")
    run, prepared, text = run_fit(tmp_path / "run", *parts_on)
    metrics = evaluate_run(prepared, text, run, tmp_path / "run")
    recommender = load_recommender(tmp_path / "run", run, text)
    parts = ScoreParts.build(
        prepared, text, recommender, prepared.video_targets("train"), torch.device("cpu")
    )
    test = Evaluation(prepared, run, "test")
    again = test.evaluate(ModelScorer(recommender, parts, test.samples))
    assert {name: metrics[name] for name in again} == again
    for baseline in ("popularity", "text_neighbours", "prior_and_profile"):
        assert set(metrics["baselines"][baseline]) == {"video", "comment"}
    users = len(prepared.video_targets("test"))
    assert metrics["video"]["full"]["users"] == users
    assert set(metrics["video"]["sampled"]) >= {"recall@10", "ndcg@10", "mrr@10"}


def test_cold_videos_are_measured_by_text_with_intervals(tmp_path):
    run, prepared, text = run_fit(tmp_path / "run", "data.cold_videos=0.3", "fit.epochs=1")
    metrics = evaluate_run(prepared, text, run, tmp_path / "run")
    assert "random" in metrics["baselines"]
    for system in (metrics, *metrics["baselines"].values()):
        for task, ranking in (("video", "cold"), ("video", "cold_full"), ("comment", "cold")):
            figures = system[task][ranking]
            assert figures["ndcg@10 low"] <= figures["ndcg@10"] <= figures["ndcg@10 high"]
    # No cold video was ever counted: all tie, and a tie counts against the ranking.
    users, cold = len(prepared.cold.video_targets("cold")), int(prepared.is_cold_V.sum())
    popularity = metrics["baselines"]["popularity"]["video"]["cold"]
    assert popularity["users"] == users
    assert popularity["mrr@10"] == pytest.approx(1 / cold)


def test_popularity_and_constant_scores_by_hand():
    run = config("evaluate.sampled_negatives=3")
    prepared = prepared_world(5, run)
    evaluation = Evaluation(prepared, run, "test")

    class Constant:
        def videos(self, part):
            return torch.zeros(
                len(evaluation.samples.videos.user_T[part]), len(prepared.is_core_V)
            ).numpy()

        def comments(self, part):
            return torch.zeros(evaluation.samples.candidate_SN[part].shape).numpy()

    metrics = evaluation.evaluate(Constant())
    assert metrics["video"]["sampled"]["recall@1"] == 0
    assert metrics["video"]["full"]["recall@10"] == 0


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    run, _prepared, text = run_fit(tmp_path / "run", "fit.epochs=1")
    other = run.override(["model.width=8"])
    with pytest.raises(DataError, match="does not fit"):
        load_recommender(tmp_path / "run", other, text)


def test_stage_two_starts_from_another_checkpoint_but_for_ids(tmp_path):
    _run, _prepared, _text = run_fit(tmp_path / "one", "fit.epochs=1")
    start = tmp_path / "one" / "checkpoints" / "best.safetensors"
    weights, _ = read_checkpoint(start)
    aligned = {
        name: w for name, w in weights.items() if name not in ("items.id.weight", "items.gate")
    }
    write_checkpoint(tmp_path / "aligned.safetensors", aligned, {})
    run_fit(
        tmp_path / "two",
        "fit.epochs=1",
        "fit.learning_rate=1e-12",
        f"fit.start_from={tmp_path / 'aligned.safetensors'}",
    )
    after, _ = read_checkpoint(tmp_path / "two" / "checkpoints" / "best.safetensors")
    assert torch.allclose(
        after["sequence.pool_hidden.weight"], weights["sequence.pool_hidden.weight"]
    )
    assert not torch.allclose(after["items.id.weight"], weights["items.id.weight"])
