"""Popularity prior and profile similarity against hand-computed values."""

import math

import numpy as np
import pytest
import torch
from worlds import START_MS, config, dataset, prepared_world, random_recommender, random_text

from lsvcr.popularity import HOUR_MS
from training import popularity_prior
from training.comment_features import FeatureScales, profiles_before, style_numbers
from training.popularity_prior import PriorModel, fit_prior, prior_table
from training.score_parts import ScoreParts
from training.split import prepare

PARTS = ("model.prior_half_lives_days=[7, 20]", "model.profile_events=200")


CPU = torch.device("cpu")


def hours(*events):
    start_ms = START_MS // HOUR_MS * HOUR_MS
    return [(user, video, start_ms + int(hour * HOUR_MS)) for user, video, hour in events]


def drawn_prior(half_lives):
    torch.manual_seed(1)
    prior = PriorModel(half_lives)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return prior.requires_grad_(False)


def one_video_prior(weight):
    """weight · log(1 + count), whatever the layers."""
    prior = PriorModel(1).requires_grad_(False)
    for parameter in prior.parameters():
        torch.nn.init.zeros_(parameter)
    prior.direct.weight[0, 0] = weight
    return prior


def test_the_prior_counts_training_events_of_earlier_hours_only():
    world = dataset(
        videos=[("a", "A"), ("b", "B")],
        comments=[],
        video_events=hours(
            ("u", "a", 0), ("u", "b", 24), ("u", "a", 48), ("u", "b", 72.9), ("w", "a", 24.9)
        ),
        comment_events=[],
    )
    prepared = prepare(world, config())
    event = prepared.video_targets("test")
    table = prior_table(prepared, (1.0,), one_video_prior(2), event, CPU)
    # Trained on: u's a and b of hours 0 and 24 (its last two events are held out), w's a of 24.
    count = {"a": 1 / 8 + 1 / 4, "b": 1 / 4}
    for video, expected in count.items():
        row = prepared.catalogue.video_index.row(video)
        logit = float(table.logit_AV[table.row_N[event[0]], row])
        assert logit == pytest.approx(2 * math.log1p(expected), rel=1e-3)


@pytest.mark.parametrize("chunk_entries", [1, 200, 1 << 22])
def test_the_table_is_what_the_formula_says_at_every_hour(monkeypatch, chunk_entries):
    monkeypatch.setattr(popularity_prior, "CHUNK_ENTRIES", chunk_entries)
    prepared = prepared_world(5, config())
    half_lives, prior = (0.1, 3.0), drawn_prior(2)
    asked_N = np.flatnonzero(prepared.video_held_out_N >= 0)
    table = prior_table(prepared, half_lives, prior, asked_N, CPU)
    timelines = prepared.timelines
    hour_N = timelines.video_time_N // HOUR_MS
    trained_N = np.flatnonzero(prepared.video_held_out_N == 0)
    for event in asked_N[::7]:
        count_HV = np.zeros((2, prepared.catalogue.video_count), np.float32)
        for other in trained_N:
            age = hour_N[event] - hour_N[other]
            if age > 0:
                for number, half_life in enumerate(half_lives):
                    count_HV[number, timelines.video_N[other]] += 2 ** (-age / (24 * half_life))
        expected_V = prior.network().logits(count_HV)
        assert table.logit_AV[table.row_N[event]].numpy() == pytest.approx(expected_V, abs=0.02)


def test_a_table_that_would_be_too_large_has_coarser_rows(monkeypatch):
    prepared = prepared_world(5, config())
    asked_N = np.arange(len(prepared.timelines.video_N))
    prior = drawn_prior(1)
    fine = prior_table(prepared, (1.0,), prior, asked_N, CPU)
    limit = fine.logit_AV.numel() // 3
    monkeypatch.setattr(popularity_prior, "MOST_ENTRIES", limit)
    coarse = prior_table(prepared, (1.0,), prior, asked_N, CPU)
    assert 0 < coarse.logit_AV.numel() <= limit
    # Nobody is told of a later hour: each row equals the fine one of the same or an earlier hour.
    order_N = np.argsort(prepared.timelines.video_time_N)
    for event in order_N[:: len(order_N) // 9]:
        coarse_V = coarse.logit_AV[coarse.row_N[event]].float()
        upto = int(fine.row_N[event]) + 1
        before_AV = fine.logit_AV[:upto].float()
        assert (before_AV - coarse_V).abs().amax(1).min() < 0.3 or not event


def test_layers_in_numpy_are_those_of_torch():
    prior = drawn_prior(3)
    count_HV = np.random.default_rng(0).pareto(1.0, (3, 50)).astype(np.float32)
    expected_V = prior(torch.from_numpy(count_HV.T).log1p())
    assert prior.network().logits(count_HV) == pytest.approx(expected_V.numpy(), abs=1e-4)


def test_without_times_there_is_no_prior():
    run = config()
    prepared = prepared_world(0, run)
    untimed = type(prepared)(**{**vars(prepared), "has_times": False})
    prior = drawn_prior(1)
    assert prior_table(untimed, (7.0,), prior, np.arange(3), CPU) is None
    fit_prior(prior, untimed, (7.0,), CPU)
    assert prior(torch.rand(5, 1)).tolist() == [0] * 5


def test_a_fitted_prior_finds_a_popular_video():
    # Two hours long everybody watches the same video, and then the next one: a video is likely
    # after one such hour (a count of 11), and not after two (17).
    favourites = ["a", "b", "c", "d", "e", "f"]
    events = [
        (f"u{user}", favourites[(hour // 2) % 6], hour + user / 100)
        for user in range(20)
        for hour in range(12)
    ]
    world = dataset(
        videos=[(video, video) for video in favourites],
        comments=[],
        video_events=hours(*events),
        comment_events=[],
    )
    prior = PriorModel(1)
    fit_prior(prior, prepare(world, config()), (0.05,), CPU)
    rising, fading = prior(torch.tensor([11.0, 17.0]).log1p()[:, None]).tolist()
    assert rising > fading + 0.5


@pytest.mark.parametrize("videos", [5, 6, 50])
def test_candidates_are_those_drawn_whatever_is_computed(videos):
    known_V = np.arange(videos) * 3
    drawn_SN = np.random.default_rng(0).choice(known_V, (4, 6))
    computed_SU, place_SN = popularity_prior._computed_once(drawn_SN, known_V)
    assert computed_SU.shape == (4, min(videos, 6))
    np.testing.assert_array_equal(np.take_along_axis(computed_SU, place_SN, axis=1), drawn_SN)


def test_a_profile_is_the_mean_of_what_came_before_and_nothing_else():
    run = config(*PARTS)
    prepared = prepared_world(3, run)
    timelines = prepared.timelines
    feature_CF = np.random.default_rng(0).normal(size=(prepared.catalogue.comment_count, 5))
    feature_CF[0] = 0
    for most in (2, 200):
        profiles = profiles_before(prepared, feature_CF.astype(np.float32), most)
        for event in range(len(timelines.comment_MK)):
            user = prepared.comment_user_M[event]
            earlier = [
                other
                for other in range(*timelines.comment_start_U1[user : user + 2])
                if timelines.comment_last_M[other] < timelines.comment_first_M[event]
            ][-most:]
            rows = timelines.comment_MK[earlier]
            rows = rows[rows > 0]
            expected_F = feature_CF[rows].mean(0) if len(rows) else np.zeros(5)
            assert profiles.count_M[event] == len(rows)
            assert profiles.feature_MF[event] == pytest.approx(expected_F, abs=1e-5)


def test_profile_logits_equal_the_formula():
    run = config(*PARTS)
    prepared = prepared_world(3, run)
    text = random_text(prepared)
    recommender = random_recommender(prepared, run).float()
    parts = ScoreParts.build(prepared, text, recommender, prepared.video_targets("test"), CPU)
    event = int(parts.profile_count_M.argmax())
    candidate_QN = torch.tensor([[1, 5, 9]])
    actual_QN = parts.profile(recommender, torch.tensor([event]), candidate_QN)
    weight_FF = recommender.profile.project.weight.detach().numpy()
    profile_F = weight_FF @ parts.profile_MF[event].numpy()
    scale = recommender.profile.scale.item()
    scale += recommender.profile.scale_by_count.item() * math.log1p(parts.profile_count_M[event])
    for place, row in enumerate(candidate_QN[0].tolist()):
        candidate_F = weight_FF @ text.feature_CF[row]
        cosine = profile_F @ candidate_F
        cosine /= np.linalg.norm(profile_F) * np.linalg.norm(candidate_F)
        assert actual_QN[0, place].item() == pytest.approx(scale * cosine, rel=1e-4)


def test_style_tells_shouting_from_whispering():
    loud, soft = style_numbers(["WHAT A GOAL!!!", "nice one, i think..."])
    assert loud.shape == (25,)
    assert (loud != soft).sum() > 10


def test_features_of_later_comments_stay_near_those_that_were_fitted() -> None:
    texts = ["so good", "so bad!", "well"]
    vector_CE = np.array([[1, 0], [-1, 0], [0.5, 0]], np.float32)
    scales = FeatureScales.fit([vector_CE], style_numbers(texts))
    fitted_CF = scales.apply([vector_CE], style_numbers(texts))
    odd_CE = np.array([[9, 9]], np.float32)  # the second component was always 0
    odd_CF = scales.apply([odd_CE], style_numbers(["(WHY??? 7 https://x…)\n" * 40]))
    least_F, most_F = fitted_CF.min(0), fitted_CF.max(0)
    margin_F = (most_F - least_F) / 2 + 1e-6
    assert (odd_CF <= most_F + margin_F).all() and (odd_CF >= least_F - margin_F).all()
    text_0, text_1 = odd_CF[0, -2:]
    assert text_0 > most_F[-2] and text_1 == 0
