import numpy as np
import pytest
from worlds import config, random_dataset

from lsvcr.errors import DataError
from training.hold_out import LATER, LeaveOneOut, TimeCut
from training.split import prepare

USER_N = np.array([0, 0, 0, 0, 1, 2, 2])
TIME_N = np.array([10, 20, 30, 40, 35, 25, 45])
ORDER_N = np.array([0, 1, 2, 3, 0, 0, 1], np.int32)
EVERY_N = np.ones(7, bool)


def test_leave_one_out_holds_out_the_last_two_that_have_a_history():
    assert LeaveOneOut()(USER_N, ORDER_N, TIME_N, EVERY_N).tolist() == [0, 0, 1, 2, 0, 0, 2]


def test_leave_one_out_follows_the_order_and_skips_what_is_no_target():
    is_target_N = np.array([1, 0, 1, 1, 1, 1, 1], bool)
    order_N = np.array([3, 2, 1, 0, 0, 0, 1], np.int32)
    label_N = LeaveOneOut()(USER_N, order_N, TIME_N, is_target_N)
    assert label_N.tolist() == [2, -1, 1, 0, 0, 0, 2]


def test_a_cut_holds_out_each_users_first_event_of_a_period():
    label_N = TimeCut(20, 40)(USER_N, ORDER_N, TIME_N, EVERY_N)
    # The lone event of user 1 and the first one of user 2 have nothing before them.
    assert label_N.tolist() == [0, 1, LATER, 2, LATER, LATER, 2]


def test_nothing_behind_the_cut_is_learned_from_or_fitted_on():
    prepared = prepare(random_dataset(3), config("data.split=time", "data.time_cuts=[0.5, 0.8]"))
    timelines = prepared.timelines
    cut_ms = min(
        timelines.video_time_N[prepared.video_targets("validation")].min(),
        timelines.comment_time_M[prepared.comment_targets("validation")].min(),
    )
    assert timelines.video_time_N[prepared.video_targets("train")].max() < cut_ms
    assert timelines.comment_time_M[prepared.comment_targets("train")].max() < cut_ms
    later_M = timelines.comment_time_M >= cut_ms
    behind = timelines.comment_MK[later_M]
    assert prepared.is_held_out_comment_C[behind[behind > 0]].all()
    # History of a test target, and counted as popular, it is all the same.
    assert prepared.is_counted_N[prepared.video_held_out_N == LATER].all()
    assert not prepared.is_counted_N[prepared.video_held_out_N == 2].any()


def test_a_cut_in_time_needs_times():
    world = random_dataset(0)
    untimed = type(world)(**{**vars(world), "time_unit": "order"})
    with pytest.raises(DataError, match=r"data\.split = 'time': these timestamps are an order"):
        prepare(untimed, config("data.split=time"))


def test_cuts_must_rise():
    with pytest.raises(DataError, match="two rising numbers"):
        config("data.time_cuts=[0.9, 0.8]")
