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


class KnownBatch(msgspec.Struct, frozen=True, eq=False):
    """Several users' events, one user after another.

    Attributes:
        users: Each user's, as slices of the arrays.
        video_start_B1: User b's are from `video_start_B1[b]` to `[b + 1]`; likewise of comments.
    """

    users: list[KnownEvents]
    video_N: NDArray[np.int32]
    video_time_N: NDArray[np.int64]
    video_start_B1: NDArray[np.int64]
    comment_M: NDArray[np.int32]
    comment_time_M: NDArray[np.int64]
    comment_start_B1: NDArray[np.int64]

    @classmethod
    def of(cls, users: list[KnownEvents]) -> "KnownBatch":
        """Join some users' events."""
        videos, comments = [user.video_N for user in users], [user.comment_M for user in users]
        return cls(
            users,
            _join(videos, np.int32),
            _join([user.video_time_N for user in users], np.int64),
            loops.starts_of(videos),
            _join(comments, np.int32),
            _join([user.comment_time_M for user in users], np.int64),
            loops.starts_of(comments),
        )

    def to_encode(self, positions: Sequence[int]) -> "KnownBatch":
        """What the encoder may read of some of them."""
        is_all = len(positions) == len(self.users)
        if is_all and all(user.max_events is None for user in self.users):  # as mostly
            return self
        return KnownBatch.of([self.users[position].newest() for position in positions])


def find_events(histories: Sequence[EventHistory | None], catalogue: Catalogue) -> KnownBatch:
    """Look up the items of many users at once."""
    given = [_NO_EVENTS if history is None else history for history in histories]
    videos = _known_of(
        catalogue.video_index,
        [history.video_hash_N for history in given],
        [history.video_timestamp_N for history in given],
    )
    comments = _known_of(
        catalogue.comment_index,
        [history.comment_hash_M for history in given],
        [history.comment_timestamp_M for history in given],
    )
    video_N, video_time_N, video_start_B1 = videos
    comment_M, comment_time_M, comment_start_B1 = comments
    users = [
        KnownEvents(
            video_N[video:video_end],
            video_time_N[video:video_end],
            comment_M[comment:comment_end],
            comment_time_M[comment:comment_end],
            len(history.video_hash_N)
            - (video_end - video)
            + len(history.comment_hash_M)
            - (comment_end - comment),
            history.max_events,
        )
        for history, (video, video_end), (comment, comment_end) in zip(
            given,
            pairwise(video_start_B1.tolist()),
            pairwise(comment_start_B1.tolist()),
            strict=True,
        )
    ]
    return KnownBatch(users, *videos, *comments)


def _known_of(
    index: IdIndex, hashes: Sequence[NDArray[np.uint64]], times: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    return index.known(_join(hashes, np.uint64), _join(times, np.int64), loops.starts_of(hashes))


def _join(arrays: Sequence[NDArray[ScalarT]], dtype: type[ScalarT]) -> NDArray[ScalarT]:
    return np.concatenate([np.empty(0, dtype), *arrays])
