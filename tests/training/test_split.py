from collections import Counter

import numpy as np
import pytest
from worlds import MINUTE, START_MS, config, dataset, prepared_world

from lsvcr.catalogue import item_hashes
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


def cold_world(seed=3):
    run = config("data.cold_videos=0.3", "evaluate.sampled_negatives=3")
    return run, prepared_world(seed, run)


def test_cold_videos_are_a_seeded_share_that_training_never_meets():
    run, prepared = cold_world()
    again = prepared_world(3, run)
    is_cold_V = prepared.is_cold_V
    core = np.count_nonzero(prepared.is_core_V | is_cold_V)
    assert np.array_equal(is_cold_V, again.is_cold_V)
    assert is_cold_V.sum() == round(0.3 * core)
    timelines, catalogue = prepared.timelines, prepared.catalogue
    assert not is_cold_V[timelines.video_N].any()
    assert not is_cold_V[timelines.comment_video_M].any()
    assert not is_cold_V[catalogue.comment_video_C[timelines.comment_MK]].any()
    assert not prepared.is_core_V[is_cold_V].any()
    assert not prepared.is_trained_V[is_cold_V].any()
    assert not prepared.cold.training_events_V[is_cold_V].any()
    kept = set(prepared.fit_texts())
    titles, comments = prepared.texts()
    assert not kept & {titles[row] for row in np.flatnonzero(is_cold_V)}
    under = np.flatnonzero(is_cold_V[catalogue.comment_video_C])
    assert len(under)
    assert not kept & {comments[row] for row in under}


def test_cold_targets_are_each_users_last_events_on_cold_videos():
    _run, prepared = cold_world()
    cold = prepared.cold
    is_cold_N = cold.is_cold_V[cold.timelines.video_N]
    for user in range(len(cold.user_ids)):
        events = np.arange(*cold.timelines.video_start_U1[user : user + 2])
        last = events[is_cold_N[events]][-1:]
        expected = [event for event in last if event > events[0]]
        targets = cold.video_targets("cold")
        assert targets[cold.video_user_N[targets] == user].tolist() == expected
        comments = cold.comment_targets("cold")
        mine = comments[cold.comment_user_M[comments] == user]
        assert len(mine) <= 1
        assert cold.is_cold_V[cold.timelines.comment_video_M[mine]].all()
    # The other videos' events keep the label that they have in training.
    for split in ("train", "validation", "test"):
        for name, targets in (("video_N", "video_targets"), ("comment_video_M", "comment_targets")):
            here, there = (
                getattr(each.timelines, name)[getattr(each, targets)(split)]
                for each in (prepared, cold)
            )
            assert sorted(here.tolist()) == sorted(there.tolist())


def test_a_cold_video_competes_with_other_cold_videos():
    run, prepared = cold_world()
    samples = draw_samples(prepared.cold, run, "cold")
    assert len(samples.videos.user_T)
    assert prepared.is_cold_V[samples.negative_SN].all()
    assert prepared.is_cold_V[samples.videos.video_T].all()
    assert not (samples.negative_SN == samples.videos.video_T[:, None]).any()


def test_without_cold_videos_nothing_is_held_out_whole():
    prepared = prepare(small_world(), config())
    assert prepared.cold is None
    assert not prepared.is_cold_V.any()


def test_too_many_cold_videos_are_refused_with_the_setting_to_change():
    with pytest.raises(DataError, match=r"data\.cold_videos = 0\.99"):
        prepare(small_world(), config("data.cold_videos=0.99"))


def test_popular_negatives_are_drawn_by_popularity_at_the_time():
    # Video n gets 2^n events in the hour before u asks; rarely watched ones are drawn rarely.
    videos = [(f"v{number}", "") for number in range(6)]
    watched = [
        (f"w{number}-{copy}", f"v{number}", 5 + copy / 100)
        for number in range(5)
        for copy in range(2**number)
    ]
    asked = [
        (f"u{user:03}", video, time)
        for user in range(400)
        for video, time in (("v5", 0), ("v5", 1), ("v5", 61), ("v0", 200))
    ]
    world = dataset(
        videos=videos,
        comments=[],
        video_events=minutes(*watched, *asked),
        comment_events=[],
    )
    run = config("evaluate.sampled_negatives=1", "data.min_events=1")
    prepared = prepare(world, run)
    samples = draw_samples(prepared, run, "test")
    drawn = Counter(ids(prepared, samples.popular_SN[:, 0]))
    weights = {f"v{number}": 2**number for number in range(1, 5)}
    weights["v5"] = prepared.training_events_V[
        prepared.catalogue.video_index.rows(item_hashes(["v5"]))[0]
    ]
    total = sum(weights.values())
    assert drawn["v0"] == 0  # the target
    for video, weight in weights.items():
        share, count = weight / total, len(samples.popular_SN)
        spread = (share * (1 - share) * count) ** 0.5
        assert abs(drawn[video] - share * count) < 4 * spread + 1


def test_popular_negatives_never_repeat_and_never_are_the_target():
    run = config("evaluate.sampled_negatives=9")
    samples = draw_samples(prepared_world(4, run), run, "test")
    for drawn, target in zip(samples.popular_SN, samples.videos.video_T, strict=True):
        assert len(set(drawn)) == 9
        assert target not in drawn
