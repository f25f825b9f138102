import numpy as np
import pytest
import torch
from worlds import config, prepared_world, random_recommender, random_text

from lsvcr.errors import DataError
from training.evaluate import Evaluation, check_for_leaks
from training.leak_check import compare_with_chance, with_random_targets
from training.score_parts import ScoreParts
from training.scorers import ModelScorer

CPU = torch.device("cpu")


class Sees:
    """Ranks the video that stands at the target's place in the events first: it leaks."""

    def __init__(self, samples, share):
        self.samples, self.share = samples, share

    def videos(self, part):
        prepared = self.samples.prepared
        score_SV = np.random.default_rng(part.start).random(
            (len(self.samples.videos.user_T[part]), prepared.catalogue.video_count)
        )
        sees_S = np.arange(len(score_SV)) < self.share * len(score_SV)
        rows_S = np.flatnonzero(sees_S)
        score_SV[rows_S, prepared.timelines.video_N[self.samples.videos.event_T[part]][rows_S]] = 2
        return score_SV

    def comments(self, part):
        return np.zeros(self.samples.candidate_SN[part].shape)


def controls_of(scorer_of, run, seed=0):
    random = with_random_targets(prepared_world(seed, run), "test", 1)
    evaluation = Evaluation(random, run, "test")
    reached = evaluation.evaluate_users(scorer_of(evaluation.samples))
    return {one.task: one for one in compare_with_chance(reached, evaluation.random_order())}


def test_random_targets_replace_the_true_ones_wherever_they_stand():
    run = config()
    prepared = prepared_world(2, run)
    random = with_random_targets(prepared, "test", 1)
    target_T = prepared.video_targets("test")
    old, new = prepared.timelines, random.timelines
    others_N = np.ones(len(old.video_N), bool)
    others_N[target_T] = False
    assert np.array_equal(old.video_N[others_N], new.video_N[others_N])
    assert (old.video_N[target_T] != new.video_N[target_T]).any()
    by_user = dict(zip(prepared.video_user_N[target_T], target_T, strict=True))
    for event, user in enumerate(prepared.comment_user_M):
        target = by_user.get(user)
        is_moved = target is not None and old.comment_video_M[event] == old.video_N[target]
        expected = new.video_N[target] if is_moved else old.comment_video_M[event]
        assert new.comment_video_M[event] == expected
    for event in random.comment_targets("test"):
        under = set(random.catalogue.comments_under(int(new.comment_video_M[event])))
        own = set(random.own_comment_MP[event]) - {0}
        assert own and own <= under
        assert set(new.comment_MK[event]) - {0} <= own
    assert np.array_equal(prepared.comment_targets("train"), random.comment_targets("train"))


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_knows_nothing_of_the_answers_scores_like_chance(seed):
    run = config("evaluate.sampled_negatives=9")
    text = random_text(prepared_world(seed, run))

    def scorer(samples):
        recommender = random_recommender(samples.prepared, run).float()
        parts = ScoreParts.build(samples.prepared, text, recommender, samples.videos.event_T, CPU)
        return ModelScorer(recommender, parts, samples)

    for control in controls_of(scorer, run, seed).values():
        assert not control.is_leak
        assert control.users > 3


def test_a_leak_to_every_second_user_is_found():
    run = config("evaluate.sampled_negatives=9")
    assert not controls_of(lambda samples: Sees(samples, 0.0), run)["video"].is_leak
    leaky = controls_of(lambda samples: Sees(samples, 1.0), run)["video"]
    assert leaky.is_leak
    assert leaky.reached == 1
    assert leaky.chance < 0.5


def test_an_evaluation_refuses_a_leak(monkeypatch):
    run = config("evaluate.sampled_negatives=9")
    prepared = prepared_world(1, run)
    recommender = random_recommender(prepared, run).float()
    check_for_leaks(prepared, random_text(prepared), run, recommender)  # as it is: fine

    def leaking(recommender, parts, samples):
        return Sees(samples, 1.0)

    monkeypatch.setattr("training.evaluate.ModelScorer", leaking)
    with pytest.raises(DataError, match="leak check: video targets drawn at random reach"):
        check_for_leaks(prepared, random_text(prepared), run, recommender)
