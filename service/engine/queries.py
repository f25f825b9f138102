"""What a front-end asks of the engine and what comes back: plain data, no HTTP, no catalogue rows.

Items are named by their 64-bit hash (`lsvcr.catalogue.item_hash`) on the way in, so that a query
means the same to every bundle, and by their identifier on the way out.
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Source = Literal["model", "popular"]


class EventHistory(msgspec.Struct, frozen=True, eq=False):
    """One user's events as the store or the caller gave them, in any order.

    Attributes:
        video_hash_N: uint64 item hashes of the videos acted on.
        video_timestamp_N: int64, Unix milliseconds.
        comment_hash_M: uint64 item hashes of the comments acted on.
        comment_timestamp_M: int64, Unix milliseconds.
        max_events: How many of each side the encoder may read, the newest; None leaves it to the
            bundle. The others still count as seen.
    """

    video_hash_N: NDArray[np.uint64]
    video_timestamp_N: NDArray[np.int64]
    comment_hash_M: NDArray[np.uint64]
    comment_timestamp_M: NDArray[np.int64]
    max_events: int | None = None


class VideoFilter(msgspec.Struct, frozen=True):
    """Exact conditions on videos; an empty set means "no condition".

    Times are a half-open interval: at or after `published_after_ms`, before `published_before_ms`.
    """

    categories_any: frozenset[str] = frozenset()
    categories_none: frozenset[str] = frozenset()
    authors_any: frozenset[str] = frozenset()
    authors_none: frozenset[str] = frozenset()
    published_after_ms: int | None = None
    published_before_ms: int | None = None


class Diversity(msgspec.Struct, frozen=True):
    """Maximal marginal relevance (`lambda_` = 1 is pure relevance) and caps, after retrieval."""

    lambda_: float = 1.0
    max_per_author: int | None = None
    max_per_category: int | None = None


class VideoQuery(msgspec.Struct, frozen=True, eq=False):
    """Rank the catalogue's videos for one user.

    Attributes:
        history: None where the store could not be read or the user is unknown.
        exclude_M: uint64 hashes of videos that must not appear.
        exclude_seen: Leave out videos that the history acted on, or on whose comments it did.
        popularity_weight: Factor of the popularity prior's part of the score; 1 is as trained.
        deadline_s: `time.monotonic()` value after which nobody waits for the answer.
    """

    history: EventHistory | None
    k: int
    deadline_s: float
    exclude_M: NDArray[np.uint64] = msgspec.field(default_factory=lambda: np.empty(0, np.uint64))
    exclude_seen: bool = True
    filter: VideoFilter | None = None
    diversity: Diversity | None = None
    popularity_weight: float = 1.0
    explain: bool = False


class CommentQuery(msgspec.Struct, frozen=True, eq=False):
    """Rank comments for one user: under one video, or over the whole catalogue.

    Attributes:
        video_id: The video on screen; None ranks all comments of the catalogue.
        candidates: Comment ids to rank, where not all comments of the video are meant.
    """

    history: EventHistory | None
    k: int
    deadline_s: float
    video_id: str | None = None
    candidates: tuple[str, ...] | None = None
    exclude_M: NDArray[np.uint64] = msgspec.field(default_factory=lambda: np.empty(0, np.uint64))
    exclude_seen: bool = False
    filter: VideoFilter | None = None
    explain: bool = False


class FeedQuery(msgspec.Struct, frozen=True, eq=False):
    """Videos, each with its best comments, from one encoding of the user."""

    videos: VideoQuery
    comments_per_video: int


class SimilarQuery(msgspec.Struct, frozen=True):
    """Nearest videos to one video by candidate vector."""

    video_id: str
    k: int
    deadline_s: float


Query = VideoQuery | CommentQuery | FeedQuery | SimilarQuery


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One history entry that a recommendation rests on, with its share in [0, 1]."""

    video_id: str | None = None
    comment_id: str | None = None
    share: float


class RankedComment(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A recommended comment as an answer tells it; with reasons only where they were asked for.

    Attributes:
        rank: From 1, the best.
        parts: Of the score.
    """

    comment_id: str
    video_id: str
    rank: int
    score: float
    text: str
    parts: dict[str, float] | None = None
    because: tuple[Reason, ...] | None = None


class RankedVideo(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A recommended video, likewise; `comments` only in a feed."""

    video_id: str
    rank: int
    score: float
    title: str
    parts: dict[str, float] | None = None
    because: tuple[Reason, ...] | None = None
    comments: tuple[RankedComment, ...] | None = None


class Answer(msgspec.Struct, frozen=True):
    """Ranked items, best first, and how they came about.

    Attributes:
        history_used: Events that reached the encoder: (videos, comments).
        ignored: Unknown history items and candidates that were skipped.
        timings_ms: Durations by stage: `queue`, `encode`, `retrieve`, …
        batch_size: Queries that were answered together, this one included.
        video_ids, comment_ids: What is shown, in its order; a feed's comments video by video.
        scores: Of the items, rounded as logs keep them.
        popularity_deciles: Of the videos: tenth of the catalogue by training events, 1 the most
            popular.
    """

    items: tuple[RankedVideo, ...] | tuple[RankedComment, ...]
    source: Source
    model_version: str
    history_used: tuple[int, int]
    ignored: int
    degraded: tuple[str, ...]
    timings_ms: dict[str, float]
    batch_size: int
    video_ids: tuple[str, ...] = ()
    comment_ids: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    popularity_deciles: tuple[int, ...] = ()
