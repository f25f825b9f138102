"""Histories against a slow, clear reimplementation, and the rules that keep targets unseen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsvcr.history import GROUP_GAP_MS, NEVER, START, LatestHistories, Timelines

MINUTE = 60_000


def build(videos, comments, *, users=1, keep=3):
    """Timelines of (user, video, minute) and (user, comment, video, minute) tuples."""
    videos = np.array(videos, np.int64).reshape(-1, 3)
    comments = np.array(comments, np.int64).reshape(-1, 4)
    return Timelines.build(
        users=users,
        video_user_N=videos[:, 0],
        video_N=videos[:, 1],
        video_time_N=videos[:, 2] * MINUTE,
        comment_user_C=comments[:, 0],
        comment_C=comments[:, 1],
        comment_video_C=comments[:, 2],
        comment_time_C=comments[:, 3] * MINUTE,
        comments_per_event=keep,
    )


def test_comments_within_thirty_minutes_form_one_event():
    timelines = build([], [(0, 11, 5, 0), (0, 12, 5, 30), (0, 13, 5, 61), (0, 14, 6, 61)])
    assert timelines.comment_video_M.tolist() == [5, 5, 6]
    assert [sorted(row[row > 0]) for row in timelines.comment_MK] == [[11, 12], [13], [14]]


def test_an_event_keeps_its_newest_comments_once_each():
    timelines = build([], [(0, 11, 5, 0), (0, 12, 5, 1), (0, 11, 5, 2), (0, 13, 5, 3)], keep=2)
    assert timelines.comment_MK.tolist() == [[13, 11]]


def test_a_repeated_video_counts_once_until_another_comes_between():
    timelines = build([(0, 5, 0), (0, 5, 1), (0, 6, 2), (0, 5, 3)], [])
    assert timelines.video_N.tolist() == [5, 6, 5]


def test_a_comment_is_read_only_after_the_like_it_led_to():
    # Comment under video 5 at minute 0, like of video 6 at 5, like of video 5 at 10.
    timelines = build([(0, 6, 5), (0, 5, 10)], [(0, 11, 5, 0)])
    assert timelines.comment_first_M[0] < timelines.video_order_N[0]
    assert timelines.comment_last_M[0] > timelines.video_order_N[1]


def test_a_like_after_the_gap_does_not_delay_the_comment():
    timelines = build([(0, 5, 31)], [(0, 11, 5, 0)])
    assert timelines.comment_last_M[0] < timelines.video_order_N[0]


def test_at_one_instant_neither_side_reveals_the_other():
    timelines = build([(0, 5, 7)], [(0, 11, 5, 7)])
    first, last = timelines.comment_first_M[0], timelines.comment_last_M[0]
    assert first < timelines.video_order_N[0] < last


def test_windows_keep_the_newest_events_behind_a_start_slot():
    timelines = build([(0, 5, 0), (0, 6, 1), (0, 7, 2), (1, 8, 0)], [(1, 11, 8, 3)], users=2)
    batch = timelines.latest_windows(2)
    assert batch.video_BI.tolist() == [[0, 6, 7], [0, 8, 0]]
    assert batch.video_order_BI[:, 0].tolist() == [START, START]
    assert batch.video_order_BI[1, 2] == NEVER
    assert batch.comment_video_BJ.tolist() == [[0, 0], [0, 8]]
    assert batch.comment_cut_BJ[0].tolist() == [NEVER, 0]


def test_a_padded_batch_keeps_its_values_and_adds_empty_histories():
    batch = build([(0, 5, 0)], []).latest_windows(4)
    padded = batch.padded(rows=2, slots=5)
    empty = build([], []).latest_windows(4).padded(rows=1, slots=5)
    for name, array in padded.arrays().items():
        original = batch.arrays()[name]
        assert (array[:1, : original.shape[1]] == original).all()
        assert (array[1] == empty.arrays()[name][0]).all()


events = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(0, 200)), max_size=25)
comments = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 20), st.integers(0, 200)), max_size=25
)


@given(events, comments, st.randoms())
def test_timelines_equal_a_plain_loop_and_ignore_the_order_of_arrival(videos, comments, random):
    comments = [(user, comment, 1 + comment % 5, time) for user, comment, time in comments]
    timelines = build(videos, comments, users=3)
    shuffled_videos, shuffled_comments = list(videos), list(comments)
    random.shuffle(shuffled_videos)
    random.shuffle(shuffled_comments)
    again = build(shuffled_videos, shuffled_comments, users=3)
    for name, array in vars(timelines).items():
        assert np.array_equal(array, getattr(again, name)), name
    for user in range(3):
        expected = plain_timeline(
            sorted((time, video) for owner, video, time in videos if owner == user),
            sorted((t, c, v) for owner, c, v, t in comments if owner == user),
        )
        videos_of = slice(*timelines.video_start_U1[user : user + 2])
        groups_of = slice(*timelines.comment_start_U1[user : user + 2])
        actual = (
            list(
                zip(timelines.video_order_N[videos_of], timelines.video_N[videos_of], strict=True)
            ),
            [
                (last, first, video, frozenset(row[row > 0].tolist()))
                for last, first, video, row in zip(
                    timelines.comment_last_M[groups_of],
                    timelines.comment_first_M[groups_of],
                    timelines.comment_video_M[groups_of],
                    timelines.comment_MK[groups_of],
                    strict=True,
                )
            ],
        )
        assert actual == expected
        orders = [order for order, _ in expected[0]]
        assert timelines.video_cut_N[videos_of].tolist() == [*orders[1:], NEVER][: len(orders)]


@pytest.mark.parametrize("gap_minutes", [1, 60])
def test_long_histories_equal_the_plain_loop_too(gap_minutes):
    """So many that runs of events are merged several times over."""
    rng = np.random.default_rng(3)
    videos = [(0, *row) for row in rng.integers(1, (20, gap_minutes * 400), (400, 2)).tolist()]
    rows = rng.integers(1, (60, gap_minutes * 400), (300, 2)).tolist()
    comments = [(0, comment, 1 + comment % 5, time) for comment, time in rows]
    timelines = build(videos, comments)
    video_orders, comment_events = plain_timeline(
        sorted((time, video) for _, video, time in videos),
        sorted((time, comment, video) for _, comment, video, time in comments),
    )
    assert timelines.video_order_N.tolist() == [order for order, _ in video_orders]
    assert timelines.video_N.tolist() == [video for _, video in video_orders]
    assert [
        (last, first, video, frozenset(row[row > 0].tolist()))
        for last, first, video, row in zip(
            timelines.comment_last_M,
            timelines.comment_first_M,
            timelines.comment_video_M,
            timelines.comment_MK,
            strict=True,
        )
    ] == comment_events


def test_a_user_who_is_out_of_range_is_refused():
    for user in (-1, 1):
        with pytest.raises(IndexError, match="a user"):
            build([(user, 5, 0)], [])
        with pytest.raises(IndexError, match="a user"):
            build([], [(user, 11, 5, 0)])


def test_a_slice_beyond_the_users_events_is_refused():
    timelines = build([(0, 5, 0), (1, 6, 0)], [], users=2)
    none = np.zeros(1, np.int64)
    for user, start, end in [(0, 0, 2), (0, 1, 2), (1, 0, 2), (2, 0, 0), (0, -1, 0), (0, 1, 0)]:
        with pytest.raises(IndexError, match="a slice"):
            timelines.windows(np.array([user]), none + start, none + end, none, none)


@given(events, comments, st.integers(1, 4))
def test_the_newest_events_are_those_before_a_cut_that_nothing_reaches(videos, comments, most):
    comments = [(user, comment, 1 + comment % 5, time) for user, comment, time in comments]
    timelines = build(videos, comments, users=4)
    users = np.arange(4)
    slow = timelines.windows_before(users, np.full(4, NEVER), most)
    fast = timelines.latest_windows(most)
    for name, array in fast.arrays().items():
        np.testing.assert_array_equal(array, slow.arrays()[name], err_msg=name)


@given(events, comments, st.integers(0, 4), st.integers(1, 3))
def test_latest_histories_are_the_latest_windows_of_timelines(videos, comments, most, keep):
    comments = [(user, comment, 1 + comment % 5, time) for user, comment, time in comments]
    timelines = build(videos, comments, users=4, keep=keep)
    windows = timelines.latest_windows(most)
    videos, comments = sorted(videos, key=lambda e: e[0]), sorted(comments, key=lambda e: e[0])
    video_3N = np.array(videos, np.int64).reshape(-1, 3).T
    comment_4C = np.array(comments, np.int64).reshape(-1, 4).T
    latest = LatestHistories.build(
        video_N=video_3N[1].astype(np.int32),
        video_time_N=video_3N[2] * MINUTE,
        video_start_B1=np.searchsorted(video_3N[0], np.arange(5)),
        comment_C=comment_4C[1].astype(np.int32),
        comment_time_C=comment_4C[3] * MINUTE,
        comment_start_B1=np.searchsorted(comment_4C[0], np.arange(5)),
        comment_video=np.array([1 + comment % 5 for comment in range(21)], np.int32),
        comments_per_event=keep,
        max_history=most,
    )
    np.testing.assert_array_equal(latest.content_BSF, windows.packed())
    assert latest.comment_slots == windows.comment_BJK.shape[1]
    assert latest.used_B == [
        (np.count_nonzero(video_I), np.count_nonzero(comment_JK))
        for video_I, comment_JK in zip(windows.video_BI, windows.comment_BJK, strict=True)
    ]
    start_U1 = timelines.comment_start_U1
    assert latest.comment_start_B1.tolist() == start_U1.tolist()
    np.testing.assert_array_equal(latest.comment_MK[: start_U1[-1]], timelines.comment_MK)


def plain_timeline(videos, comments):
    """One user's ordered events: [(order, video)] and [(last, first, video, comments)]."""
    kept = [event for i, event in enumerate(videos) if i == 0 or videos[i - 1][1] != event[1]]
    groups = []
    for video in sorted({video for _, _, video in comments}):
        for time, comment, owner in comments:
            if owner != video:
                continue
            if groups and groups[-1]["video"] == video and time - groups[-1]["last"] <= 30:
                groups[-1]["events"].append((time, comment))
                groups[-1]["last"] = time
            else:
                groups.append(
                    {"video": video, "first": time, "last": time, "events": [(time, comment)]}
                )
    for group in groups:
        likes = [t for t, v in kept if v == group["video"] and 0 <= t - group["last"] <= 30]
        group["last"] = min(likes, default=group["last"])
        latest = {comment: time for time, comment in group["events"]}
        newest = sorted(latest, key=lambda c: (latest[c], c), reverse=True)[:3]
        group["comments"] = frozenset(newest)
    instants = [(time, 1, video, "v") for time, video in kept]
    for number, group in enumerate(groups):
        instants.append((group["first"], 0, group["video"], f"f{number}"))
        instants.append((group["last"], 2, group["video"], f"l{number}"))
    instants.sort(key=lambda instant: instant[:3])
    order = {key: rank for rank, (*_, key) in enumerate(instants) if key != "v"}
    video_orders = [(r, video) for r, (_, _, video, key) in enumerate(instants) if key == "v"]
    comment_events = sorted(
        (order[f"l{n}"], order[f"f{n}"], g["video"], g["comments"]) for n, g in enumerate(groups)
    )
    return video_orders, comment_events


def test_the_gap_is_half_an_hour():
    assert GROUP_GAP_MS == 30 * MINUTE
