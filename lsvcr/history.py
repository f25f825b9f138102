"""Turns raw events into the encoder's inputs: the only code that does so, offline and online.

Shape suffixes: U users, N video events, C single comment events, M comment events (groups),
K comments per comment event, B rows of a batch, I and J slots of the video and comment side.

Events become two timelines per user. Single comment events under one video, at most 30 minutes
apart, form one *comment event*: an interval that is predicted at its first instant and may be
read only after its last one. All instants of a user get unique integers, their *order*, so that
"may this be known here?" is one comparison. Rule 0: nothing whose last instant is at or after a
target's cut may influence its prediction.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]

VIDEO_EVENT_TYPES = ("video_watch", "video_like", "video_share")
COMMENT_EVENT_TYPES = ("comment_like", "comment_reply", "comment_write")
"""What counts as history; other types (`comment_view`) are logged only."""

GROUP_GAP_MS = 30 * 60 * 1000
NEVER = 2**30
"""The order of padding, and the cut of a state that no event follows."""
START = -1
"""The order of the learned start state in slot 0 of each side, older than every event."""

_PADDING = {"video_order": NEVER, "comment_last": NEVER}
_PADDED_START = {
    "video_order": START,
    "video_cut": NEVER,
    "comment_last": START,
    "comment_cut": NEVER,
}
"""What padding and the start state of an empty history are, by input; 0 in the others."""

_MOST_PACKED = 2**63 - 1


@dataclass(frozen=True)
class Timelines:
    """Both histories of many users, flat: user u owns a slice of each side, oldest first.

    Attributes:
        video_N: int32 video rows.
        video_order_N: int32, when the video event happened.
        video_cut_N: int32, order of the user's next video event, `NEVER` after the last: the
            earliest video target that reads this event's state.
        video_time_N: int64, Unix milliseconds.
        video_start_U1: int64, user u's video events are `video_start_U1[u]` to `[u + 1]`.
        comment_video_M: int32 video rows of the comment events.
        comment_MK: int32 comment rows, the newest K of each event; 0 where there are fewer.
        comment_first_M: int32, the order at which the event is predicted.
        comment_last_M: int32, the order after which it may be read.
        comment_cut_M: int32, order of the first comment event that starts after this one's end.
        comment_earliest_M: int32, the smallest `comment_first_M` from here to the user's end.
        comment_time_M: int64, its first instant in Unix milliseconds.
        comment_start_U1: int64, as `video_start_U1`.
    """

    video_N: IntArray
    video_order_N: IntArray
    video_cut_N: IntArray
    video_time_N: IntArray
    video_start_U1: IntArray
    comment_video_M: IntArray
    comment_MK: IntArray
    comment_first_M: IntArray
    comment_last_M: IntArray
    comment_cut_M: IntArray
    comment_earliest_M: IntArray
    comment_time_M: IntArray
    comment_start_U1: IntArray

    @classmethod
    def build(
        cls,
        *,
        users: int,
        video_user_N: IntArray,
        video_N: IntArray,
        video_time_N: IntArray,
        comment_user_C: IntArray,
        comment_C: IntArray,
        comment_video_C: IntArray,
        comment_time_C: IntArray,
        comments_per_event: int,
    ) -> Self:
        """Group, order and slice the events of `users` users, given in any order.

        Args:
            users: U; user numbers are below it.
            video_user_N, video_N, video_time_N: User, video row and Unix milliseconds.
            comment_user_C, comment_C, comment_video_C, comment_time_C: User, comment row, the
                row of the video it stands under, and Unix milliseconds.
            comments_per_event: K, how many comments a comment event keeps (its newest).

        Source:
            docs/model.md, Encoder. A like often follows the comment on the same video; seen as
            history the comment would then reveal the like, so such a comment event is read only
            after the like ("delay, never advance").
        """
        order_N = places_in_order(video_user_N, video_time_N, video_N)
        user_N, video_N, time_N = (
            np.asarray(array)[order_N] for array in (video_user_N, video_N, video_time_N)
        )
        is_new_N = np.ones(len(video_N), bool)
        is_new_N[1:] = (user_N[1:] != user_N[:-1]) | (video_N[1:] != video_N[:-1])
        user_N, video_N, time_N = user_N[is_new_N], video_N[is_new_N], time_N[is_new_N]

        user_M, group_video_M, comment_MK, first_time_M, last_time_M = _group_comments(
            comment_user_C, comment_C, comment_video_C, comment_time_C, comments_per_event
        )
        last_time_M = _delay_behind_like(
            user_M, group_video_M, last_time_M, user_N, video_N, time_N
        )
        first_M, video_order_N, last_M = _order_instants(
            user_M, first_time_M, last_time_M, group_video_M, user_N, time_N, video_N
        )
        by_end_M = places_in_order(user_M, last_M)
        user_M, first_M, last_M = user_M[by_end_M], first_M[by_end_M], last_M[by_end_M]
        return cls(
            video_N=video_N.astype(np.int32),
            video_order_N=video_order_N,
            video_cut_N=_next_of_same(user_N, video_order_N),
            video_time_N=time_N.astype(np.int64),
            video_start_U1=np.searchsorted(user_N, np.arange(users + 1)),
            comment_video_M=group_video_M[by_end_M].astype(np.int32),
            comment_MK=comment_MK[by_end_M],
            comment_first_M=first_M,
            comment_last_M=last_M,
            comment_cut_M=_next_after(user_M, first_M, user_M, last_M),
            comment_earliest_M=_smallest_from_here(user_M, first_M),
            comment_time_M=first_time_M[by_end_M].astype(np.int64),
            comment_start_U1=np.searchsorted(user_M, np.arange(users + 1)),
        )

    def latest_windows(self, max_history: int) -> "HistoryBatch":
        """Every user's newest events: what serving encodes; one batch row per user."""
        users = np.arange(len(self.video_start_U1) - 1)
        video_to_B, comment_to_B = self.video_start_U1[1:], self.comment_start_U1[1:]
        return self.windows(
            users,
            np.maximum(self.video_start_U1[:-1], video_to_B - max_history),
            video_to_B,
            np.maximum(self.comment_start_U1[:-1], comment_to_B - max_history),
            comment_to_B,
        )

    def windows_before(self, user_B: IntArray, cut_B: IntArray, max_history: int) -> "HistoryBatch":
        """The newest `max_history` events a side that are known before each cut (Rule 0)."""
        video_to_B = _count_before(self.video_start_U1, self.video_order_N, user_B, cut_B)
        comment_to_B = self.comments_before(user_B, cut_B)
        return self.windows(
            user_B,
            np.maximum(self.video_start_U1[user_B], video_to_B - max_history),
            video_to_B,
            np.maximum(self.comment_start_U1[user_B], comment_to_B - max_history),
            comment_to_B,
        )

    def comments_before(self, user_B: IntArray, cut_B: IntArray) -> NDArray[np.int64]:
        """Flat position behind the last comment event that is known before each cut."""
        return _count_before(self.comment_start_U1, self.comment_last_M, user_B, cut_B)

    def windows(
        self,
        user_B: IntArray,
        video_from_B: IntArray,
        video_to_B: IntArray,
        comment_from_B: IntArray,
        comment_to_B: IntArray,
    ) -> "HistoryBatch":
        """Pad slices of both sides to one batch: slot 0 is the start state, then the events.

        Args:
            user_B: Whose events.
            video_from_B, video_to_B: Slices of the video side, within the user's events.
            comment_from_B, comment_to_B: Likewise of the comment side.
        """
        video_BI, is_video_BI = _slots(video_from_B, video_to_B)
        comment_BJ, is_comment_BJ = _slots(comment_from_B, comment_to_B)

        def video(values_N: IntArray, padding: int, start: IntArray | int) -> NDArray[np.int32]:
            return _gather(values_N, video_BI, is_video_BI, padding, start)

        def comment(values_M: IntArray, padding: int, start: IntArray | int) -> NDArray[np.int32]:
            return _gather(values_M, comment_BJ, is_comment_BJ, padding, start)

        video_cut_B = _first_cut(self.video_order_N, video_from_B, self.video_start_U1[user_B + 1])
        comment_cut_B = _first_cut(
            self.comment_earliest_M, comment_from_B, self.comment_start_U1[user_B + 1]
        )
        return HistoryBatch(
            video_BI=video(self.video_N, 0, 0),
            video_order_BI=video(self.video_order_N, NEVER, START),
            video_cut_BI=video(self.video_cut_N, 0, video_cut_B),
            comment_video_BJ=comment(self.comment_video_M, 0, 0),
            comment_BJK=_gather(self.comment_MK, comment_BJ, is_comment_BJ, 0, 0),
            comment_last_BJ=comment(self.comment_last_M, NEVER, START),
            comment_cut_BJ=comment(self.comment_cut_M, 0, comment_cut_B),
        )


@dataclass(frozen=True)
class HistoryBatch:
    """The encoder's inputs, int32. Slot 0 is the start state, then events, then padding.

    A video state i may read comment slot j where `comment_last_BJ[j] < video_cut_BI[i]`, and a
    comment state j video slot i where `video_order_BI[i] < comment_cut_BJ[j]`: everything before
    the earliest target that will ever read that state ("lookahead"). Padding has
    order `NEVER` and cut 0, so it is read by none and itself reads the start state only.
    """

    video_BI: NDArray[np.int32]
    video_order_BI: NDArray[np.int32]
    video_cut_BI: NDArray[np.int32]
    comment_video_BJ: NDArray[np.int32]
    comment_BJK: NDArray[np.int32]
    comment_last_BJ: NDArray[np.int32]
    comment_cut_BJ: NDArray[np.int32]

    def padded(self, *, rows: int, slots: int) -> "HistoryBatch":
        """Grow to a fixed shape: empty histories below, padding slots on the right."""
        arrays = self.arrays().values()
        grown = HistoryBatch(*(np.empty((rows, slots, *a.shape[2:]), np.int32) for a in arrays))
        self.pad_into(grown)
        return grown

    def pad_into(self, grown: "HistoryBatch") -> None:
        """As `padded`, into arrays that are there already, of any content."""
        targets = grown.arrays()
        for name, array in self.arrays().items():
            target = targets[name]
            if array.shape != target.shape:
                target[:] = _PADDING.get(name, 0)
                target[:, 0] = _PADDED_START.get(name, 0)
            target[: array.shape[0], : array.shape[1]] = array

    def arrays(self) -> dict[str, NDArray[np.int32]]:
        """The arrays under the names of the encoder graph's inputs, in the graph's order."""
        return {
            "video": self.video_BI,
            "video_order": self.video_order_BI,
            "video_cut": self.video_cut_BI,
            "comment_video": self.comment_video_BJ,
            "comment": self.comment_BJK,
            "comment_last": self.comment_last_BJ,
            "comment_cut": self.comment_cut_BJ,
        }


def places_in_order(*keys: IntArray | NDArray[np.bool_]) -> NDArray[np.intp]:
    """Places by the first key, equal ones by the second and so on, then as they stand.

    That is `np.lexsort`, which sorts by each key in turn. Here keys share a number as long as 63
    bits hold them, mostly all of them, which is ten times as fast.
    """
    packed: list[NDArray[np.int64]] = []
    packed_span = _MOST_PACKED
    for key_N in reversed(keys):
        if not len(key_N):
            return np.empty(0, np.intp)
        lowest = int(key_N.min())
        span = int(key_N.max()) - lowest + 1
        if packed_span * span < _MOST_PACKED:
            packed[-1] += (key_N.astype(np.int64) - lowest) * packed_span
            packed_span *= span
        else:
            fits = span < _MOST_PACKED
            packed.append(key_N.astype(np.int64) - (lowest if fits else 0))
            packed_span = span
    return np.argsort(packed[0], kind="stable") if len(packed) == 1 else np.lexsort(packed)


def _group_comments(
    user_C: IntArray, comment_C: IntArray, video_C: IntArray, time_C: IntArray, keep: int
) -> tuple[IntArray, IntArray, NDArray[np.int32], IntArray, IntArray]:
    """Join single events of one user and video that are at most `GROUP_GAP_MS` apart."""
    order_C = places_in_order(user_C, video_C, time_C, comment_C)
    user_C, comment_C, video_C, time_C = (
        np.asarray(array)[order_C] for array in (user_C, comment_C, video_C, time_C)
    )
    starts_C = np.ones(len(user_C), bool)
    starts_C[1:] = (
        (user_C[1:] != user_C[:-1])
        | (video_C[1:] != video_C[:-1])
        | (time_C[1:] - time_C[:-1] > GROUP_GAP_MS)
    )
    group_C = np.cumsum(starts_C) - 1
    first_M = np.flatnonzero(starts_C)
    last_M = np.append(first_M[1:], len(user_C))[: len(first_M)] - 1

    # A comment that was both liked and answered counts once, at its latest event.
    by_comment_C = places_in_order(group_C, comment_C)
    is_latest_C = np.ones(len(user_C), bool)
    group, comment = group_C[by_comment_C], comment_C[by_comment_C]
    is_latest_C[by_comment_C[:-1]] = (group[1:] != group[:-1]) | (comment[1:] != comment[:-1])
    kept_C = np.flatnonzero(is_latest_C)
    newer_C = np.searchsorted(group_C[kept_C], group_C[kept_C], "right") - np.arange(len(kept_C))
    in_reach_C = newer_C <= keep
    comment_MK = np.zeros((len(first_M), keep), np.int32)
    comment_MK[group_C[kept_C][in_reach_C], newer_C[in_reach_C] - 1] = comment_C[kept_C][in_reach_C]
    return user_C[first_M], video_C[first_M], comment_MK, time_C[first_M], time_C[last_M]


def _delay_behind_like(
    user_M: IntArray,
    video_M: IntArray,
    last_time_M: IntArray,
    user_N: IntArray,
    video_N: IntArray,
    time_N: IntArray,
) -> IntArray:
    """Move the end of a comment event behind a video event on the same video within the gap."""
    groups, videos = len(user_M), len(user_N)
    user = np.concatenate([user_M, user_N])
    video = np.concatenate([video_M, video_N])
    time = np.concatenate([last_time_M, time_N])
    is_video = np.arange(groups + videos) >= groups
    order = places_in_order(user, video, time, is_video)
    position = np.where(is_video[order], np.arange(groups + videos), groups + videos)
    next_position = np.minimum.accumulate(position[::-1])[::-1]
    delayed_M = last_time_M.copy()
    found = np.flatnonzero(~is_video[order] & (next_position < groups + videos))
    here, there = order[found], order[next_position[found]]
    is_same = (
        (user[here] == user[there])
        & (video[here] == video[there])
        & (time[there] - time[here] <= GROUP_GAP_MS)
    )
    delayed_M[here[is_same]] = time[there[is_same]]
    return delayed_M


def _order_instants(
    user_M: IntArray,
    first_time_M: IntArray,
    last_time_M: IntArray,
    video_M: IntArray,
    user_N: IntArray,
    time_N: IntArray,
    video_N: IntArray,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Give each user's instants unique integers by (time, kind, video).

    At one instant, a comment event's start precedes video events and its end follows them: then
    neither the comment reveals the video event nor the video event the comment.
    """
    user = np.concatenate([user_M, user_N, user_M])
    time = np.concatenate([first_time_M, time_N, last_time_M])
    video = np.concatenate([video_M, video_N, video_M])
    kind = np.repeat([0, 1, 2], [len(user_M), len(user_N), len(user_M)])
    by_time = places_in_order(user, time, kind, video)
    rank = np.empty(len(user), np.int64)
    rank[by_time] = np.arange(len(user)) - np.searchsorted(user[by_time], user[by_time])
    first, order, last = np.split(rank.astype(np.int32), [len(user_M), len(user_M) + len(user_N)])
    return first, order, last


def _next_of_same(user_N: IntArray, order_N: NDArray[np.int32]) -> NDArray[np.int32]:
    """The order of the same user's next event, or NEVER; users and orders ascend."""
    next_N = np.full(len(order_N), NEVER, np.int32)
    has_next_N = user_N[1:] == user_N[:-1]
    next_N[:-1][has_next_N] = order_N[1:][has_next_N]
    return next_N


def _next_after(
    user_T: IntArray, order_T: IntArray, user_S: IntArray, order_S: IntArray
) -> NDArray[np.int32]:
    """The smallest `order_T` of the same user that is greater than each `order_S`, or NEVER."""
    target_T = np.sort(user_T.astype(np.int64) * NEVER + order_T)
    position_S = np.searchsorted(target_T, user_S.astype(np.int64) * NEVER + order_S, "right")
    target_T = np.append(target_T, np.iinfo(np.int64).max)
    owner_S, next_S = np.divmod(target_T[position_S], NEVER)
    return np.where(owner_S == user_S, next_S, NEVER).astype(np.int32)


def _count_before(
    start_U1: IntArray, order_S: IntArray, user_B: IntArray, cut_B: IntArray
) -> NDArray[np.int64]:
    """Flat position behind the user's last event with an order below the cut."""
    owner_S = np.repeat(np.arange(len(start_U1) - 1), np.diff(start_U1))
    key_S = owner_S * (NEVER + 1) + order_S
    return np.searchsorted(key_S, user_B * (NEVER + 1) + np.asarray(cut_B, np.int64))


def _smallest_from_here(user_M: IntArray, first_M: IntArray) -> NDArray[np.int32]:
    """The smallest value from each position to the end of its user's run."""
    key_M = user_M.astype(np.int64) * NEVER + first_M
    return (np.minimum.accumulate(key_M[::-1])[::-1] % NEVER).astype(np.int32)


def _first_cut(first_S: IntArray, from_B: IntArray, end_B: IntArray) -> NDArray[np.int64]:
    """The cut of a start state: the first event from `from_B` on, NEVER if the user has none."""
    padded_S = np.append(first_S, NEVER)
    return np.where(from_B < end_B, padded_S[from_B], NEVER)


def _slots(from_B: IntArray, to_B: IntArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Flat positions of a slice's events behind an empty slot 0, and which slots hold events."""
    longest = int((to_B - from_B).max(initial=0))
    position_BI = np.asarray(from_B, np.int64)[:, None] + np.arange(-1, longest)
    is_event_BI = position_BI < np.asarray(to_B)[:, None]
    is_event_BI[:, 0] = False
    return position_BI, is_event_BI


def _gather(
    values: IntArray,
    position_BI: NDArray[np.int64],
    is_event_BI: NDArray[np.bool_],
    padding: int,
    start: IntArray | int,
) -> NDArray[np.int32]:
    """Read values at event slots; `start` into slot 0, `padding` elsewhere."""
    gathered = np.full((*position_BI.shape, *values.shape[1:]), padding, np.int32)
    gathered[is_event_BI] = values[position_BI[is_event_BI]]
    gathered[:, 0] = start
    return gathered
