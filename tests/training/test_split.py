import numpy as np
import pytest
from worlds import MINUTE, START_MS, config, dataset, prepared_world

from lsvcr.errors import DataError
from training.samples import draw_samples
from training.split import prepare


def minutes(*events):
    return [(user, item, START_MS + minute * MINUTE) for user, item, minute in events]


def small_world():
    return dataset(
        videos=[(video, video.upper()) for video in ("a", "b", "c", "d")],
        comments=[("a1", "a", "x"), ("a2", "a", "y"), ("b1", "b", "z"), ("c1", "c", "w")],
        video_events=minutes(("u", "c", 300), ("u", "a", 0), ("u", "b", 100), ("w", "a", 5)),
        comment_events=minutes(
            ("u", "a1", 1), ("u", "b1", 101), ("u", "c1", 301), ("u", "a2", 400), ("w", "a1", 6)
        ),
    )


def ids(prepared, rows):
    return [prepared.catalogue.video_id[int(row)] for row in rows]


def test_the_last_event_is_test_and_the_one_before_validation():
    prepared = prepare(small_world(), config())
    video_N = prepared.timelines.video_N
    assert ids(prepared, video_N[prepared.video_targets("test")]) == ["c"]
    assert ids(prepared, video_N[prepared.video_targets("validation")]) == ["b"]
    assert ids(prepared, video_N[prepared.video_targets("train")]) == ["a", "a"]


def test_comment_targets_are_first_events_under_a_video():
    prepared = prepare(small_world(), config())
    video_M = prepared.timelines.comment_video_M
    assert ids(prepared, video_M[prepared.comment_targets("test")]) == ["c"]
    # The later comment under `a` is history, no target, and counts as an own one there.
    assert prepared.comment_held_out_M.tolist().count(-1) == 1
    first = prepared.comment_targets("train")[0]
    own = prepared.own_comment_MP[first]
    assert sorted(prepared.catalogue.comment_id[int(row)] for row in own[own > 0]) == ["a1", "a2"]


def test_a_lone_event_is_no_test_target():
    prepared = prepare(small_world(), config())
    assert prepared.user_ids == ["u", "w"]
    assert 1 not in prepared.video_user_N[prepared.video_targets("test")]


def test_the_core_drops_rare_users_and_videos_until_none_is_left():
    world = dataset(
        videos=[(video, video) for video in ("a", "b", "c")],
        comments=[],
        video_events=minutes(
            ("u", "a", 0), ("u", "b", 1), ("w", "a", 2), ("w", "b", 3), ("x", "b", 4), ("x", "c", 5)
        ),
        comment_events=[],
    )
    prepared = prepare(world, config("data.min_events=2"))
    assert prepared.user_ids == ["u", "w"]
    assert ids(prepared, np.flatnonzero(prepared.is_core_V)) == ["a", "b"]
    assert prepared.catalogue.video_count == 4  # the cold video stays in the catalogue


def test_an_empty_core_is_refused_with_the_setting_to_change():
    with pytest.raises(DataError, match=r"data\.min_events"):
        prepare(small_world(), config("data.min_events=9"))


def test_candidates_are_fixed_by_user_and_contain_what_they_should():
    run = config("evaluate.sampled_negatives=5", "evaluate.comment_candidates=4")
    prepared = prepared_world(3, run)
    first, again = (draw_samples(prepared, run, "test") for _ in range(2))
    assert np.array_equal(first.negative_SN, again.negative_SN)
    assert np.array_equal(first.candidate_SN, again.candidate_SN)
    for sample, target in enumerate(first.videos.video_T):
        negatives = first.negative_SN[sample]
        assert target not in negatives
        assert len(set(negatives.tolist())) == 5
        assert prepared.is_core_V[negatives].all()
    for sample, video in enumerate(first.comments.video_T):
        candidates = first.candidate_SN[sample][first.candidate_SN[sample] > 0]
        assert (prepared.catalogue.comment_video_C[candidates] == video).all()
        assert len(set(candidates.tolist())) == len(candidates)
        own = first.comments.own_comment_TP[sample]
        is_own = np.isin(first.candidate_SN[sample], own[own > 0])
        assert np.array_equal(is_own, first.is_own_SN[sample])
        assert is_own.any()


def test_held_out_comments_are_not_fitted_on():
    prepared = prepare(small_world(), config())
    assert "w" not in prepared.fit_texts()
    assert {"A", "x", "y"} <= set(prepared.fit_texts())
