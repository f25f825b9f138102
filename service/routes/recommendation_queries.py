"""Turns request bodies into the engine's queries."""

import msgspec
import numpy as np

from lsvcr.catalogue import item_hashes
from service.engine.queries import (
    CommentQuery,
    Diversity,
    EventHistory,
    FeedQuery,
    VideoFilter,
    VideoQuery,
)
from service.experiments.definition import Overrides
from service.schemas import (
    CommentExclusion,
    CommentsBody,
    DiversityWish,
    FeedBody,
    Filter,
    InlineHistory,
    VideoExclusion,
    VideosBody,
)

RecommendBody = VideosBody | CommentsBody | FeedBody

_NO_VIDEOS = VideoExclusion()
_NO_COMMENTS = CommentExclusion()


def build_query(
    body: RecommendBody, history: EventHistory | None, deadline_s: float, overrides: Overrides
) -> VideoQuery | CommentQuery | FeedQuery:
    """Ask for what a body wants, in the way that the unit's arms have it."""
    if history is not None and overrides.max_history is not None:
        history = msgspec.structs.replace(history, max_events=overrides.max_history)
    if isinstance(body, CommentsBody):
        return _comment_query(body, history, deadline_s)
    videos = _video_query(body, history, deadline_s, overrides)
    return FeedQuery(videos, body.comments_per_video) if isinstance(body, FeedBody) else videos


def _video_query(
    body: VideosBody, history: EventHistory | None, deadline_s: float, overrides: Overrides
) -> VideoQuery:
    weight = overrides.popularity_weight
    exclude = body.exclude or _NO_VIDEOS
    return VideoQuery(
        history=history,
        k=body.k,
        deadline_s=deadline_s,
        exclude_M=item_hashes(exclude.video_ids),
        exclude_seen=exclude.seen,
        filter=_filter(body.filter),
        diversity=_diversity(body.diversity or overrides.diversity),
        popularity_weight=1.0 if weight is None else weight,
        explain=body.explain,
    )


def _comment_query(
    body: CommentsBody, history: EventHistory | None, deadline_s: float
) -> CommentQuery:
    exclude = body.exclude or _NO_COMMENTS
    return CommentQuery(
        history=history,
        k=body.k,
        deadline_s=deadline_s,
        video_id=body.video_id,
        candidates=None if body.candidates is None else tuple(body.candidates),
        exclude_M=item_hashes(exclude.comment_ids),
        exclude_seen=exclude.seen,
        filter=_filter(body.filter),
        explain=body.explain,
    )


def inline_history(history: InlineHistory) -> EventHistory:
    """Read the history that a request brings along."""
    return EventHistory(
        video_hash_N=item_hashes([event.video_id for event in history.videos]),
        video_timestamp_N=np.array([event.timestamp for event in history.videos], np.int64),
        comment_hash_M=item_hashes([event.comment_id for event in history.comments]),
        comment_timestamp_M=np.array([event.timestamp for event in history.comments], np.int64),
    )


def _filter(wish: Filter | None) -> VideoFilter | None:
    if wish is None:
        return None
    return VideoFilter(
        categories_any=frozenset(wish.categories.any_of),
        categories_none=frozenset(wish.categories.none_of),
        authors_any=frozenset(wish.authors.any_of),
        authors_none=frozenset(wish.authors.none_of),
        published_after_ms=wish.published_after,
        published_before_ms=wish.published_before,
    )


def _diversity(wish: DiversityWish | None) -> Diversity | None:
    if wish is None:
        return None
    return Diversity(wish.lambda_, wish.max_per_author, wish.max_per_category)
