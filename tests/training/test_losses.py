import math

import pytest
import torch
from worlds import CPU, config, prepared_world, random_recommender, random_text, rows_of

from lsvcr.errors import DataError
from training.averaged_weights import AveragedWeights
from training.batches import TargetSlots
from training.draws import filled
from training.fit import build_optimizer, fit, train_epoch
from training.losses import HIDDEN, Objective
from training.repeats import seen_by
from training.score_parts import ScoreParts
from training.train_step import TrainStep


def test_targets_fill_the_slots_from_the_front():
    is_target_BT = torch.tensor([[False, True, False], [True, False, True]])
    slot_Q, weight_Q = filled(is_target_BT, 5)
    assert slot_Q[:3].tolist() == [1, 3, 5]
    assert weight_Q.tolist() == [True, True, True, False, False]


def test_spare_slots_and_the_empty_row_change_no_loss():
    run = config("fit.drop_comment_history=0", "fit.id_text_weight=0", "model.dropout=0")
    prepared = prepared_world(3, run)
    recommender = random_recommender(prepared, run)
    rows = rows_of(prepared, run, "prefix")
    exact = TargetSlots.of(rows, [torch.arange(len(rows))[None]])
    spare = TargetSlots(exact.videos + 9, exact.comments + 9)
    results = []
    for slots, row_B in (
        (exact, torch.arange(len(rows))),
        (spare, torch.arange(len(rows) + 1)),
    ):
        objective = Objective(prepared, run.fit, ScoreParts(), CPU, slots)
        # Negatives are drawn for each slot: only the videos' loss is free of chance.
        objective.draws.slices = FirstComment(objective.draws.slices)
        generator = torch.Generator().manual_seed(1)
        results.append(objective(recommender, rows.select(row_B), generator)["video"].item())
    assert results[0] == pytest.approx(results[1], rel=1e-9)


class FirstComment:
    """Shows every video with its most popular comment."""

    def __init__(self, slices):
        self.slices, self.comments = slices, slices.comments

    def draw(self, video, most, generator):
        return self.slices.most_popular(video)


def test_a_batch_has_room_for_its_fullest_order():
    run = config()
    prepared = prepared_world(3, run)
    rows = rows_of(prepared, run, "prefix")
    order = rows.batches(4, seed=1)
    assert sorted(order.flatten().tolist())[: len(rows)] == list(range(len(rows)))
    assert (order.flatten() == len(rows)).sum() == -len(rows) % 4
    by_hand = max(int((rows.video_target_RT[row_B] > 0).sum()) for row_B in order)
    assert TargetSlots.of(rows, [order]).videos == by_hand
    assert not (rows.video_target_RT[len(rows)] > 0).any()


def test_drawn_negatives_estimate_the_loss_over_all_videos():
    run = config("fit.video_negatives=4096")
    prepared = prepared_world(4, run)
    recommender = random_recommender(prepared, run).float()
    rows = rows_of(prepared, run, "prefix")
    is_target = rows.video_target_RT > 0
    target_Q, event_Q = rows.video_target_RT[is_target], rows.video_event_RT[is_target]
    seen_QI = seen_by(rows, is_target.flatten().nonzero().squeeze(1))
    with torch.no_grad():
        recommender.repeat.cosine.fill_(-0.2)
    preference_QD = torch.randn(len(target_Q), run.model.width)
    objective = Objective(prepared, run.fit, ScoreParts(), CPU, TargetSlots(1, 1))
    drawn_S = objective.draws.negatives(rows.video_target_RT, torch.Generator().manual_seed(1))
    assert len(drawn_S) == 4096
    losses = [
        objective.video_losses(recommender, preference_QD, target_Q, event_Q, seen_QI, negative_S)
        .mean()
        .item()
        for negative_S in (drawn_S, None)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_a_negative_is_corrected_by_the_log_of_its_expected_count():
    run = config("fit.video_negatives=6", "fit.id_text_weight=0")
    prepared = prepared_world(4, run)
    recommender = random_recommender(prepared, run).float()
    objective = Objective(prepared, run.fit, ScoreParts(), CPU, TargetSlots(1, 1))
    preference_1D = torch.randn(1, run.model.width)
    target = 1
    negative_S = objective.draws.negatives(
        objective.known_N[None, target, None], torch.Generator().manual_seed(0)
    )
    logit_1N, label_1 = objective.sampled_logits(
        recommender,
        preference_1D,
        torch.tensor([target]),
        torch.zeros(1),
        torch.full((1, 2), len(objective.known_N)),
        negative_S,
    )
    assert label_1.tolist() == [0]
    # With one target, the in-batch half of the draws are the target itself: hidden.
    assert logit_1N[0, 1:4].tolist() == [HIDDEN] * 3
    count_V = prepared.training_events_V[prepared.is_core_V]
    video_ND = recommender.video_candidates(objective.known_N)
    cosine_N = torch.cosine_similarity(preference_1D, video_ND).detach() / run.model.temperature
    expected_N = 3 * torch.from_numpy(count_V) / count_V.sum() + 3 / len(count_V)
    corrected_N = (cosine_N - expected_N.log()).tolist()
    assert logit_1N[0, 0].item() == pytest.approx(cosine_N[target].item(), abs=1e-4)
    for logit in logit_1N[0, 4:].tolist():
        assert any(logit == pytest.approx(one, abs=1e-4) for one in (*corrected_N, HIDDEN))


def test_a_large_catalogue_is_sampled_without_being_asked():
    settings = config().fit
    assert [settings.sampled_videos(count) for count in (100_000, 100_001)] == [0, 8192]
    everything = settings.model_copy(update={"video_negatives": "all"})
    assert everything.sampled_videos(10**7) == 0


def test_sampled_videos_train(tmp_path):
    run = config("fit.video_negatives=8", "fit.epochs=1", "fit.device=cpu")
    prepared = prepared_world(5, run)
    fit(prepared, random_text(prepared), run, tmp_path)
    assert (tmp_path / "checkpoints" / "best.safetensors").exists()


def test_a_loss_that_is_no_number_names_step_and_users_and_what_stands(tmp_path):
    run = config("fit.epochs=1", "fit.device=cpu", "fit.batch_rows=4")
    prepared = prepared_world(5, run)
    text = random_text(prepared)
    fit(prepared, text, run, tmp_path)
    before = (tmp_path / "checkpoints" / "last.safetensors").read_bytes()
    text.title_VE[:] = math.inf
    with pytest.raises(DataError, match=r"step 1 of epoch 2 .*users u\d+.*last.* holds epoch 1"):
        fit(prepared, text, run.override(["fit.epochs=2"]), tmp_path)
    assert (tmp_path / "checkpoints" / "last.safetensors").read_bytes() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_recorded_step_learns_what_single_kernels_learn():
    run = config("model.dropout=0", "fit.drop_comment_history=0", "fit.id_text_weight=0")
    prepared = prepared_world(5, run)
    device = torch.device("cuda")
    means = []
    for as_graph in (False, True):
        torch.manual_seed(0)
        recommender = random_recommender(prepared, run).float().to(device)
        rows = rows_of(prepared, run, "prefix", device=device)
        order = rows.batches(4, 1)
        slots = TargetSlots.of(rows, [order])
        objective = Objective(prepared, run.fit, ScoreParts(), device, slots)
        step = TrainStep(
            recommender,
            build_optimizer(recommender, run.fit),
            objective,
            rows,
            4,
            averaged=AveragedWeights(recommender, run.fit.average_decay),
            as_graph=as_graph,
        )
        means.append([train_epoch(step, order, seed, seed)["video"] for seed in (1, 2, 3)])
    assert means[0] == pytest.approx(means[1], rel=0.02)
    assert means[1][-1] < means[1][0]


@pytest.mark.parametrize("negatives", ["all", "64"])
def test_a_video_without_training_events_is_no_negative(negatives):
    cuts = ("data.split=time", "data.time_cuts=[0.1,0.6]")
    run = config(*cuts, f"fit.video_negatives={negatives}", "fit.id_text_weight=0")
    prepared = prepared_world(6, run)
    is_new_V = prepared.is_core_V & ~prepared.is_trained_V
    assert is_new_V.any() and prepared.is_trained_V.any()
    recommender = random_recommender(prepared, run)
    rows = rows_of(prepared, run, "prefix")
    slots = TargetSlots.of(rows, [torch.arange(len(rows))[None]])
    objective = Objective(prepared, run.fit, ScoreParts(), CPU, slots)
    losses = objective(recommender, rows, torch.Generator().manual_seed(1))
    losses["video"].backward()
    is_moved_V = recommender.items.id.weight.grad.any(1).numpy()
    assert not is_moved_V[is_new_V].any() and is_moved_V[prepared.is_trained_V].all()
