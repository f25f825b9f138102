"""Finds users' events in one bundle's catalogue and orders them as the encoder reads them.

Shape suffixes: N video events, M comment events of one user; B users of a batch.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from lsvcr import loops
from lsvcr.catalogue import Catalogue, IdIndex
from lsvcr.history import HistoryBatch, Timelines
from service.engine.queries import EventHistory

ScalarT = TypeVar("ScalarT", bound=np.generic)

_NO_HASH = np.empty(0, np.uint64)
_NO_TIME = np.empty(0, np.int64)
_NO_EVENTS = EventHistory(_NO_HASH, _NO_TIME, _NO_HASH, _NO_TIME)


class KnownEvents(msgspec.Struct, frozen=True, eq=False):
    """One user's events on items of the catalogue, in any order.

    Attributes:
        video_N, comment_M: int32 rows, without the padding row 0.
        video_time_N, comment_time_M: int64, Unix milliseconds.
        ignored: Events left out because the catalogue doesn't know their item.
        max_events: How many of each side the encoder may read; None for all.
    """

    video_N: NDArray[np.int32]
    video_time_N: NDArray[np.int64]
    comment_M: NDArray[np.int32]
    comment_time_M: NDArray[np.int64]
    ignored: int
    max_events: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to encode."""
        return len(self.video_N) == 0 and len(self.comment_M) == 0

    def newest(self) -> "KnownEvents":
        """Keep what the encoder may read: the newest `max_events` of each side."""
        if self.max_events is None:
            return self
        video = np.argsort(self.video_time_N, kind="stable")[-self.max_events :]
        comment = np.argsort(self.comment_time_M, kind="stable")[-self.max_events :]
        return msgspec.structs.replace(
            self,
            video_N=self.video_N[video],
            video_time_N=self.video_time_N[video],
            comment_M=self.comment_M[comment],
            comment_time_M=self.comment_time_M[comment],
        )


def find_events(
    histories: Sequence[EventHistory | None], catalogue: Catalogue
) -> list[KnownEvents]:
    """Look up the items of many users at once."""
    given = [_NO_EVENTS if history is None else history for history in histories]
    videos = _known_of_each(
        [history.video_hash_N for history in given],
        [history.video_timestamp_N for history in given],
        catalogue.video_index,
    )
    comments = _known_of_each(
        [history.comment_hash_M for history in given],
        [history.comment_timestamp_M for history in given],
        catalogue.comment_index,
    )
    return [
        KnownEvents(
            video_N=video_N,
            video_time_N=video_time_N,
            comment_M=comment_M,
            comment_time_M=comment_time_M,
            ignored=unknown_videos + unknown_comments,
            max_events=history.max_events,
        )
        for history, (video_N, video_time_N, unknown_videos), (
            comment_M,
            comment_time_M,
            unknown_comments,
        ) in zip(given, videos, comments, strict=True)
    ]


def build_timelines(
    users: Sequence[KnownEvents], catalogue: Catalogue, *, comments_per_event: int
) -> Timelines:
    """Group and order the events of some users, as training does."""
    comment_C = _join([user.comment_M for user in users], np.int32)
    return Timelines.build(
        users=len(users),
        video_user_N=_owners([user.video_N for user in users]),
        video_N=_join([user.video_N for user in users], np.int32),
        video_time_N=_join([user.video_time_N for user in users], np.int64),
        comment_user_C=_owners([user.comment_M for user in users]),
        comment_C=comment_C,
        comment_video_C=catalogue.comment_video_C[comment_C],
        comment_time_C=_join([user.comment_time_M for user in users], np.int64),
        comments_per_event=comments_per_event,
    )


def count_used(history: HistoryBatch) -> list[tuple[int, int]]:
    """Count the events in each row of a batch: (videos, comments)."""
    videos_B = np.count_nonzero(history.video_BI, axis=1)
    comments_B = np.count_nonzero(history.comment_BJK, axis=(1, 2))
    return list(zip(videos_B.tolist(), comments_B.tolist(), strict=True))


def _known_of_each(
    hashes: Sequence[NDArray[np.uint64]], times: Sequence[NDArray[np.int64]], index: IdIndex
) -> list[tuple[NDArray[np.int32], NDArray[np.int64], int]]:
    """Rows and times of the events whose item is known, and how many aren't, of each user."""
    row_N, time_N = index.rows(_join(hashes, np.uint64)), _join(times, np.int64)
    start_U1 = loops.starts_of(hashes)
    known_start_U1 = np.empty_like(start_U1)
    loops.keep_known(row_N, time_N, start_U1, known_start_U1)
    return [
        (row_N[start:end], time_N[start:end], len(hash_N) - (end - start))
        for hash_N, (start, end) in zip(hashes, pairwise(known_start_U1.tolist()), strict=True)
    ]


def _owners(arrays: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])


def _join(arrays: Sequence[NDArray[ScalarT]], dtype: type[ScalarT]) -> NDArray[ScalarT]:
    return np.concatenate([np.empty(0, dtype), *arrays])
