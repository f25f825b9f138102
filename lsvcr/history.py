"""Turns raw events into the encoder's inputs: the only code that does so, offline and online.

Shape suffixes: U users, N video events, C single comment events, M comment events (groups),
K comments per comment event, B rows of a batch, I and J slots of the video and comment side, S
slots of either side, F numbers of a slot.

Events become two timelines per user. Single comment events under one video, at most 30 minutes
apart, form one *comment event*: an interval that is predicted at its first instant and may be
read only after its last one. All instants of a user get unique integers, their *order*, so that
"may this be known here?" is one comparison. Rule 0: nothing whose last instant is at or after a
target's cut may influence its prediction.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lsvcr import loops

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

_FIELDS_BESIDE_COMMENTS = 6


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

    video_N: NDArray[np.int32]
    video_order_N: NDArray[np.int32]
    video_cut_N: NDArray[np.int32]
    video_time_N: NDArray[np.int64]
    video_start_U1: NDArray[np.int64]
    comment_video_M: NDArray[np.int32]
    comment_MK: NDArray[np.int32]
    comment_first_M: NDArray[np.int32]
    comment_last_M: NDArray[np.int32]
    comment_cut_M: NDArray[np.int32]
    comment_earliest_M: NDArray[np.int32]
    comment_time_M: NDArray[np.int64]
    comment_start_U1: NDArray[np.int64]

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
        videos, comments = len(video_N), len(comment_C)
        video_3N = np.empty((3, videos), np.int32)
        ordered_time_N = np.empty(videos, np.int64)
        comment_5C = np.empty((5, comments), np.int32)
        comment_CK = np.zeros((comments, comments_per_event), np.int32)
        first_time_C = np.empty(comments, np.int64)
        video_start_U1, comment_start_U1 = np.empty((2, users + 1), np.int64)
        loops.build_timelines(
            comments_per_event,
            _int64(video_user_N),
            _int32(video_N),
            _int64(video_time_N),
            _int64(comment_user_C),
            _int32(comment_C),
            _int32(comment_video_C),
            _int64(comment_time_C),
            video_3N,
            ordered_time_N,
            video_start_U1,
            comment_5C,
            comment_CK,
            first_time_C,
            comment_start_U1,
        )
        videos, comments = int(video_start_U1[-1]), int(comment_start_U1[-1])
        row_N, order_N, cut_N = video_3N[:, :videos]
        comment_video_M, first_M, last_M, comment_cut_M, earliest_M = comment_5C[:, :comments]
        return cls(
            video_N=row_N,
            video_order_N=order_N,
            video_cut_N=cut_N,
            video_time_N=ordered_time_N[:videos],
            video_start_U1=video_start_U1,
            comment_video_M=comment_video_M,
            comment_MK=comment_CK[:comments],
            comment_first_M=first_M,
            comment_last_M=last_M,
            comment_cut_M=comment_cut_M,
            comment_earliest_M=earliest_M,
            comment_time_M=first_time_C[:comments],
            comment_start_U1=comment_start_U1,
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
        rows, keep = len(user_B), self.comment_MK.shape[1]
        video_slots = 1 + int((video_to_B - video_from_B).max(initial=0))
        comment_slots = 1 + int((comment_to_B - comment_from_B).max(initial=0))
        video_3BI = np.empty((3, rows, video_slots), np.int32)
        comment_3BJ = np.empty((3, rows, comment_slots), np.int32)
        comment_BJK = np.empty((rows, comment_slots, keep), np.int32)
        loops.fill_windows(
            video_slots,
            comment_slots,
            keep,
            _int64(user_B),
            _int64(video_from_B),
            _int64(video_to_B),
            _int64(comment_from_B),
            _int64(comment_to_B),
            self.video_start_U1,
            self.comment_start_U1,
            self.video_N,
            self.video_order_N,
            self.video_cut_N,
            self.comment_video_M,
            self.comment_MK,
            self.comment_last_M,
            self.comment_cut_M,
            self.comment_earliest_M,
            video_3BI,
            comment_3BJ,
            comment_BJK,
        )
        video_BI, video_order_BI, video_cut_BI = video_3BI
        comment_video_BJ, comment_last_BJ, comment_cut_BJ = comment_3BJ
        return HistoryBatch(
            video_BI=video_BI,
            video_order_BI=video_order_BI,
            video_cut_BI=video_cut_BI,
            comment_video_BJ=comment_video_BJ,
            comment_BJK=comment_BJK,
            comment_last_BJ=comment_last_BJ,
            comment_cut_BJ=comment_cut_BJ,
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

    def take(self, rows: slice | list[int]) -> "HistoryBatch":
        """Only some of the users."""
        return HistoryBatch(*(array[rows] for array in self.arrays().values()))

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

    def packed(self) -> NDArray[np.int32]:
        """Lay out all of it slot by slot, as many on either side: one array to send, (B, S, F)."""
        users, comment_slots, comments = self.comment_BJK.shape
        slots = max(self.video_BI.shape[1], comment_slots)
        content_BSF = np.empty((users, slots, _FIELDS_BESIDE_COMMENTS + comments), np.int32)
        self.pad_into(HistoryBatch.unpacked(content_BSF))
        return content_BSF

    @classmethod
    def unpacked(cls, content_BSF: NDArray[np.int32]) -> Self:
        """The encoder's inputs as views of what `packed` made."""
        field_BS = [content_BSF[:, :, field] for field in range(_FIELDS_BESIDE_COMMENTS)]
        video_BI, video_order_BI, video_cut_BI, comment_video_BJ, comment_last_BJ, cut_BJ = field_BS
        return cls(
            video_BI,
            video_order_BI,
            video_cut_BI,
            comment_video_BJ,
            content_BSF[:, :, _FIELDS_BESIDE_COMMENTS:],
            comment_last_BJ,
            cut_BJ,
        )

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


@dataclass(frozen=True)
class LatestHistories:
    """Every user's newest events as serving encodes them: packed, and what is told of them besides.

    Attributes:
        content_BSF: `HistoryBatch.packed` of `Timelines.latest_windows`.
        comment_slots: J; `content_BSF` has more where the video side does.
        used_B: Events in it: (videos, comments).
        comment_MK, comment_start_B1: As in `Timelines`, of all comment events; zeros behind them.
    """

    content_BSF: NDArray[np.int32]
    comment_slots: int
    used_B: list[tuple[int, int]]
    comment_MK: NDArray[np.int32]
    comment_start_B1: NDArray[np.int64]

    @classmethod
    def build(
        cls,
        *,
        video_N: NDArray[np.int32],
        video_time_N: NDArray[np.int64],
        video_start_B1: NDArray[np.int64],
        comment_C: NDArray[np.int32],
        comment_time_C: NDArray[np.int64],
        comment_start_B1: NDArray[np.int64],
        comment_video: NDArray[np.int32],
        comments_per_event: int,
        max_history: int,
    ) -> Self:
        """As `Timelines.build` and `latest_windows`, in one step: few users ask at a time.

        Args:
            video_N, video_time_N: Video rows and Unix milliseconds, user by user.
            video_start_B1: User b's are from `video_start_B1[b]` to `[b + 1]`.
            comment_C, comment_time_C, comment_start_B1: Likewise of comments.
            comment_video: The row of the video that each of the catalogue's comments stands under.
            comments_per_event: K.
            max_history: Events of each side, at most.
        """
        users, fields = len(video_start_B1) - 1, _FIELDS_BESIDE_COMMENTS + comments_per_event
        most = min(max_history, max(len(video_N), len(comment_C)))
        content_F = np.empty(users * (1 + most) * fields, np.int32)
        slots_2, used_B2 = np.empty(2, np.int64), np.empty((users, 2), np.int64)
        comment_MK = np.zeros((len(comment_C), comments_per_event), np.int32)
        group_start_B1 = np.empty(users + 1, np.int64)
        loops.latest_histories(
            users,
            max_history,
            comments_per_event,
            video_start_B1,
            video_N,
            video_time_N,
            comment_start_B1,
            comment_C,
            comment_time_C,
            comment_video,
            content_F,
            slots_2,
            used_B2,
            comment_MK,
            group_start_B1,
        )
        video_slots, comment_slots = slots_2.tolist()
        shape = users, max(video_slots, comment_slots), fields
        return cls(
            content_BSF=content_F[: math.prod(shape)].reshape(shape),
            comment_slots=comment_slots,
            used_B=[(videos, comments) for videos, comments in used_B2.tolist()],
            comment_MK=comment_MK,
            comment_start_B1=group_start_B1,
        )


def _count_before(
    start_U1: IntArray, order_S: IntArray, user_B: IntArray, cut_B: IntArray
) -> NDArray[np.int64]:
    """Flat position behind the user's last event with an order below the cut."""
    owner_S = np.repeat(np.arange(len(start_U1) - 1), np.diff(start_U1))
    key_S = owner_S * (NEVER + 1) + order_S
    return np.searchsorted(key_S, user_B * (NEVER + 1) + np.asarray(cut_B, np.int64))


def _int32(array: IntArray) -> NDArray[np.int32]:
    return np.ascontiguousarray(array, np.int32)


def _int64(array: IntArray) -> NDArray[np.int64]:
    return np.ascontiguousarray(array, np.int64)
