"""One pass over a window answers every target as if it had been asked alone, and leaks nothing."""

from dataclasses import replace

import pytest
import torch
from worlds import config, prepared_world, random_recommender, rows_of

from lsvcr.history import NEVER
from training.draws import CommentSlices

LONG = "model.max_history=40"  # no history is longer, so every window begins at the first event
ENCODERS = [
    ("model.norm=pre", "model.encoder_kv=previous"),
    ("model.norm=post", "model.encoder_kv=input"),
    ("model.norm=pre", "model.encoder_kv=input"),
    ("model.norm=post", "model.encoder_kv=previous"),
    ("model.pool=last",),
    ("model.mix=false",),
]


def preferences(recommender, prepared, rows):
    """Preferences of all targets of all rows, by (kind, user's target) in a dictionary."""
    slices = CommentSlices.of(prepared.catalogue, torch.device("cpu"))
    states = recommender.encode(rows.history, slices.most_popular(rows.history.video_BI))
    video_RTD, _ = recommender.sequence.video_preferences(states, rows.video_cut_RT)
    query_RTD = recommender.items.video_queries(rows.comment_target_RT)
    comment_RTD, _ = recommender.sequence.comment_preferences(
        states, query_RTD, rows.comment_cut_RT
    )
    return video_RTD[rows.video_target_RT > 0], comment_RTD[rows.comment_target_RT > 0]


def order_of(rows, target_RT, cut_RT):
    """Sorts the targets of one kind by (user, cut)."""
    return torch.argsort((rows.user_R[:, None] * NEVER + cut_RT)[target_RT > 0])


@pytest.mark.parametrize("settings", ENCODERS)
@pytest.mark.parametrize("seed", range(3))
def test_one_pass_equals_one_prefix_at_a_time(seed, settings):
    run = config(LONG, "model.encoder_layers=2", *settings)
    prepared = prepared_world(seed, run)
    recommender = random_recommender(prepared, run)
    one_pass, alone = (rows_of(prepared, run, targets) for targets in ("prefix", "single"))
    assert len(alone) > 3 * len(one_pass)
    with torch.no_grad():
        fast, slow = (preferences(recommender, prepared, rows) for rows in (one_pass, alone))
    for kind in ("video", "comment"):
        number = ("video", "comment").index(kind)
        fast_order, slow_order = (
            order_of(rows, getattr(rows, f"{kind}_target_RT"), getattr(rows, f"{kind}_cut_RT"))
            for rows in (one_pass, alone)
        )
        difference_QD = fast[number][fast_order] - slow[number][slow_order]
        assert len(difference_QD) > 30
        assert difference_QD.abs().max() < 1e-10


@pytest.mark.parametrize(
    "setting", ["model.norm=pre", "model.norm=post", "model.pool=last", "model.mix=false"]
)
def test_no_target_depends_on_anything_at_or_after_its_cut(setting):
    run = config(LONG, setting)
    prepared = prepared_world(7, run)
    recommender = random_recommender(prepared, run)
    rows = rows_of(prepared, run, "prefix")
    leaks = future_gradients(recommender, prepared, rows)
    assert leaks == 0


def test_the_leak_test_finds_a_leak():
    run = config(LONG)
    prepared = prepared_world(7, run)
    recommender = random_recommender(prepared, run)
    rows = rows_of(prepared, run, "prefix")
    history = rows.history
    everything_BI = torch.full_like(history.video_cut_BI, NEVER)
    leaky = replace(rows, history=replace(history, video_cut_BI=everything_BI))
    assert future_gradients(recommender, prepared, leaky) > 0


def future_gradients(recommender, prepared, rows):
    """Largest gradient of any target's prediction with respect to an event it may not know."""
    items, sequence, history = recommender.items, recommender.sequence, rows.history
    slices = CommentSlices.of(prepared.catalogue, torch.device("cpu"))
    popular_BI = slices.most_popular(history.video_BI)
    inputs = []
    for event in (
        items.video_ids(history.video_BI) + items.video_event_text(history.video_BI, popular_BI),
        items.video_ids(history.comment_video_BJ)
        + items.comment_event_text(history.comment_video_BJ, history.comment_BJK),
    ):
        inputs.append(event.detach().requires_grad_())
    states = sequence(
        *inputs,
        history.video_order_BI,
        history.video_cut_BI,
        history.comment_last_BJ,
        history.comment_cut_BJ,
    )
    video_RTD, _ = sequence.video_preferences(states, rows.video_cut_RT)
    query_RTD = items.video_queries(rows.comment_target_RT).detach()
    comment_RTD, _ = sequence.comment_preferences(states, query_RTD, rows.comment_cut_RT)
    orders = (history.video_order_BI, history.comment_last_BJ)
    worst = 0.0
    for preference_RTD, target_RT, cut_RT in (
        (video_RTD, rows.video_target_RT, rows.video_cut_RT),
        (comment_RTD, rows.comment_target_RT, rows.comment_cut_RT),
    ):
        projection_D = torch.randn(preference_RTD.shape[-1], dtype=torch.float64)
        for slot in range(target_RT.shape[1]):
            gradients = torch.autograd.grad(
                (preference_RTD[:, slot] @ projection_D).sum(),
                inputs,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            is_target_R1 = (target_RT[:, slot] > 0)[:, None]
            for gradient, order in zip(gradients, orders, strict=True):
                is_future = is_target_R1 & (order >= cut_RT[:, slot, None])
                if is_future.any():
                    worst = max(worst, gradient.abs().amax(-1)[is_future].max().item())
    return worst
