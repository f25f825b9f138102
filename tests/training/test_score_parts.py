"""Popularity prior and profile similarity against hand-computed values."""

import math

import numpy as np
import pytest
import torch
from worlds import START_MS, config, dataset, prepared_world, random_recommender, random_text

from lsvcr.popularity import DAY_MS, decayed_log_counts
from training.comment_features import profiles_before, style_numbers
from training.popularity_prior import daily_prior, fit_prior_weights
from training.score_parts import ScoreParts
from training.split import prepare

PARTS = ("model.prior_half_lives_days=[7, 20]", "model.profile_events=200")


def test_counts_decay_by_half_lives_and_exclude_the_day_itself():
    count_AV = np.array([[2.0], [0.0], [1.0], [0.0]], np.float32)
    feature_AV = decayed_log_counts(count_AV, half_life_days=1)
    expected = [0, 2 / 2, 2 / 4, 2 / 8 + 1 / 2]
    assert feature_AV[:, 0] == pytest.approx([math.log1p(count) for count in expected])


def days(*events):
    return [(user, video, START_MS + int(day * DAY_MS)) for user, video, day in events]


def test_the_prior_counts_training_events_of_earlier_days_only():
    world = dataset(
        videos=[("a", "A"), ("b", "B")],
        comments=[],
        video_events=days(
            ("u", "a", 0), ("u", "b", 1), ("u", "a", 2), ("u", "b", 3), ("w", "a", 1)
        ),
        comment_events=[],
    )
    prepared = prepare(world, config())
    prior = daily_prior(prepared, (1.0,), np.array([2.0]))
    row = prior.day_rows(np.array([START_MS + 3 * DAY_MS]))[0]
    # Trained on: u's a at day 0 and b at day 1 (its last two events are held out), w's a at day 1.
    count = {"a": 1 / 8 + 1 / 4, "b": 1 / 4}
    for video, expected in count.items():
        logit = float(prior.logit_AV[row, prepared.catalogue.video_index.row(video)])
        assert logit == pytest.approx(2 * math.log1p(expected), rel=1e-3)


def test_without_times_there_is_no_prior():
    run = config()
    prepared = prepared_world(0, run)
    untimed = type(prepared)(**{**vars(prepared), "has_times": False})
    assert daily_prior(untimed, (7.0,), np.ones(1)) is None
    assert fit_prior_weights(untimed, (7.0,)).tolist() == [0]


def test_fitted_weights_find_a_popular_video():
    # Everybody's next video is yesterday's favourite.
    favourites = ["a", "b", "c", "d", "e", "f"]
    events = [
        (f"u{user}", favourites[(day // 2) % 6], day + user / 100)
        for user in range(20)
        for day in range(12)
    ]
    world = dataset(
        videos=[(video, video) for video in favourites],
        comments=[],
        video_events=days(*events),
        comment_events=[],
    )
    weight_H = fit_prior_weights(prepare(world, config()), (1.0,))
    assert weight_H[0] > 0.5


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
    parts = ScoreParts.build(prepared, text, recommender, torch.device("cpu"))
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
