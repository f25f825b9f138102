"""How much of the encoder's part is kept: the likeliest factor, folded into what stands beside."""

import numpy as np
import pytest
import torch
from together import run_together
from worlds import (
    CPU,
    config,
    fit_world,
    prepared_world,
    random_recommender,
    random_text,
    read_log,
)

from training.checkpoint import load_recommender, read_checkpoint
from training.encoder_factor import FACTORS, choose_factors, folded
from training.evaluate import Evaluation
from training.samples import draw_samples
from training.score_parts import ScoreParts
from training.scorers import EncoderFactors, ModelScorer

PARTS = ("model.prior_half_lives_days=[7]", "model.profile_events=200")
FIT = ("fit.epochs=2", "fit.device=cpu", "fit.choose_encoder_factor=true")


def scorer_of(*assignments, split="validation"):
    run = config(*assignments)
    prepared = prepared_world(6, run)
    recommender = random_recommender(prepared, run).float()
    samples = draw_samples(prepared, run, split)
    text = random_text(prepared)
    parts = ScoreParts.build(prepared, text, recommender, samples.videos.event_T, CPU)
    return ModelScorer(recommender, parts, samples)


def losses_by_hand(model, factor):
    """Mean cross-entropies of both tasks, one user after the other in float64."""
    samples, alone = model.samples, model.parts_alone
    every = slice(None)
    video_S, comment_S = [], []
    score_SV = factor * model.encoder_videos(every).double().numpy() + alone.videos(every)
    for score_V, video in zip(score_SV, samples.videos.video_T, strict=True):
        likely_V = np.exp(score_V) * samples.prepared.is_core_V
        video_S.append(-np.log(likely_V[video] / likely_V.sum()))
    score_SN = factor * model.encoder_comments(every).double().numpy() + alone.comments(every)
    for score_N, row_N, is_own_N in zip(
        score_SN, samples.candidate_SN, samples.is_own_SN, strict=True
    ):
        likely_N = np.exp(score_N) * (row_N > 0)
        comment_S.append(np.mean(-np.log(likely_N[is_own_N] / likely_N.sum())))
    return np.mean(video_S), np.mean(comment_S)


def test_the_factors_are_those_under_which_what_was_chosen_is_likeliest():
    model = scorer_of(*PARTS)
    by_hand_A2 = np.array([losses_by_hand(model, factor) for factor in FACTORS])
    video, comment = by_hand_A2.argmin(0)
    factors = choose_factors(model)
    assert factors == EncoderFactors(FACTORS[video], FACTORS[comment])
    assert (np.diff(by_hand_A2, 2, axis=0) > -1e-9).all(), "convex: there is one best"


@pytest.mark.parametrize(("is_right", "expected"), [(True, FACTORS[-1]), (False, FACTORS[0])])
def test_an_encoder_that_knows_is_trusted_and_one_that_errs_is_not(monkeypatch, is_right, expected):
    model = scorer_of(*PARTS)
    sign = 1 if is_right else -1
    videos, count = len(model.samples.videos.video_T), model.samples.prepared.catalogue.video_count
    knows_SV = torch.zeros(videos, count)
    knows_SV[torch.arange(videos), torch.from_numpy(model.samples.videos.video_T).long()] = sign
    knows_SN = sign * torch.from_numpy(model.samples.is_own_SN).float()
    monkeypatch.setattr(model, "encoder_videos", lambda part: knows_SV[part])
    monkeypatch.setattr(model, "encoder_comments", lambda part: knows_SN[part])
    assert choose_factors(model) == EncoderFactors(expected, expected)


def test_without_a_part_beside_there_is_nothing_to_weigh():
    model = scorer_of(
        "model.prior_half_lives_days=[]", "model.repeats=false", "model.profile_events=0"
    )
    assert choose_factors(model) == EncoderFactors(1, 1)


def test_folded_weights_score_in_proportion_and_are_then_as_before():
    model = scorer_of(*PARTS)
    factors = EncoderFactors(0.4, 1.3)
    model.factors = factors
    recommender, samples = model.recommender, model.samples
    before = {name: weight.clone() for name, weight in recommender.state_dict().items()}
    every = slice(None)
    video_SV, comment_SN = model.videos(every), model.comments(every)
    beside_SV = model.parts_alone.videos(every)
    with folded(recommender, factors):
        text, asked_N = random_text(samples.prepared), samples.videos.event_T
        parts = ScoreParts.build(samples.prepared, text, recommender, asked_N, CPU)
        stored = ModelScorer(recommender, parts, samples)
        # The prior is kept in fp16.
        np.testing.assert_allclose(stored.videos(every), video_SV / 0.4, atol=0.02)
        np.testing.assert_allclose(stored.comments(every), comment_SN / 1.3, rtol=1e-4)
        np.testing.assert_allclose(stored.parts_alone.videos(every), beside_SV / 0.4, atol=0.02)
    assert all(torch.equal(before[name], now) for name, now in recommender.state_dict().items())


def run_fit(folder, *assignments):
    return fit_world(folder, *PARTS, *FIT, *assignments)


def test_the_stored_checkpoint_ranks_as_it_was_validated(tmp_path):
    run, prepared, text = run_fit(tmp_path / "run")
    recommender = load_recommender(tmp_path / "run", run, text)
    validation = Evaluation(prepared, run, "validation")
    asked_N = validation.samples.videos.event_T
    parts = ScoreParts.build(prepared, text, recommender, asked_N, CPU)
    [best] = [entry for entry in read_log(tmp_path / "run") if entry["is_best"]][-1:]
    assert best["encoder_factor"]["video"] != 1
    again = validation.evaluate(ModelScorer(recommender, parts, validation.samples))
    for task, ranking in (("video", "full"), ("video", "sampled"), ("comment", "thread")):
        assert again[task][ranking] == pytest.approx(best["validation"][task][ranking])


def test_training_goes_on_as_if_nothing_had_been_chosen(tmp_path):
    run_fit(tmp_path / "chosen")
    run_fit(tmp_path / "not", "fit.choose_encoder_factor=false")
    run_fit(tmp_path / "parts", "fit.epochs=1")
    run_fit(tmp_path / "parts")
    run_together(2, run_fit, tmp_path / "two")
    chosen, never, parts, two = (
        read_log(tmp_path / name) for name in ("chosen", "not", "parts", "two")
    )
    assert [entry["losses"] for entry in chosen] == [entry["losses"] for entry in never]
    for entry in never:
        assert entry["encoder_factor"] == {"video": 1, "comment": 1}
    for name in ("encoder_factor", "validation"):
        assert [entry[name] for entry in parts] == [entry[name] for entry in chosen]
    assert [entry["encoder_factor"] for entry in two] == [e["encoder_factor"] for e in chosen]
    best, again = (
        read_checkpoint(tmp_path / name / "checkpoints" / "best.safetensors")[0]
        for name in ("chosen", "parts")
    )
    assert all(torch.equal(best[name], again[name]) for name in best)
