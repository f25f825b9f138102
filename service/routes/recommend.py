"""Recommendations: HTTP in, HTTP out."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.answer_schemas import BatchAnswer, CommentsAnswer, FeedAnswer, VideosAnswer
from service.engine.queries import Answer, EventHistory
from service.engine.recommender import Recommender
from service.errors import HistoryStoreError, InvalidRequestError
from service.history_store import HistoryStore
from service.problem_details import describe_problem
from service.routes.deadline import within_deadline
from service.routes.json_route import JsonRoute
from service.routes.recommendation_answers import build_answer, encode_json
from service.routes.recommendation_queries import (
    build_comment_query,
    build_feed_query,
    build_video_query,
    inline_history,
)
from service.schemas import BatchBody, CommentsBody, FeedBody, Identifier, Refused, VideosBody

router = APIRouter(route_class=JsonRoute, tags=["recommending"])

RecommendBody = VideosBody | CommentsBody | FeedBody


@dataclass(frozen=True, slots=True)
class _KnownHistory:
    """A user's history, what was missing to read it, and how long that took."""

    history: EventHistory | None
    degraded: tuple[str, ...]
    took_ms: float


@router.post("/recommend/videos", responses={200: {"model": VideosAnswer}})
async def recommend_videos(request: Request, body: VideosBody) -> Response:
    """The videos to show next; the popular ones to somebody without a history."""
    recommender = request.app.state.models.current()
    return _respond(await _recommend(request, recommender, body), recommender.version)


@router.post("/recommend/comments", responses={200: {"model": CommentsAnswer}})
async def recommend_comments(request: Request, body: CommentsBody) -> Response:
    """The comments to show under a video, or the best of all videos' comments."""
    recommender = request.app.state.models.current()
    return _respond(await _recommend(request, recommender, body), recommender.version)


@router.post("/recommend/feed", responses={200: {"model": FeedAnswer}})
async def recommend_feed(request: Request, body: FeedBody) -> Response:
    """Videos, each with its best comments, in one pass."""
    recommender = request.app.state.models.current()
    return _respond(await _recommend(request, recommender, body), recommender.version)


@router.post("/recommend/batch", responses={200: {"model": BatchAnswer}})
async def recommend_batch(request: Request, body: BatchBody) -> Response:
    """Many requests at once; one that fails has a problem in its place, and the others stand."""
    recommender = request.app.state.models.current()

    async def answer(item: RecommendBody | Refused) -> object:
        try:
            if isinstance(item, Refused):
                raise InvalidRequestError(item.errors)
            return await _recommend(request, recommender, item)
        except Exception as error:
            return describe_problem(error, request.state.request_id)[0]

    results = await asyncio.gather(*(answer(item) for item in body.requests))
    return _respond({"results": results}, recommender.version)


@router.get("/videos/{video_id:path}/similar", responses={200: {"model": VideosAnswer}})
async def similar_videos(
    request: Request, video_id: Identifier, k: Annotated[int, Query(ge=1)] = 20
) -> Response:
    """The videos nearest to one, whoever asks."""
    if k > request.app.state.limits.max_k:
        message = f"Input should be at most {request.app.state.limits.max_k}"
        raise InvalidRequestError([(("query", "k"), message)])
    recommender: Recommender = request.app.state.models.current()
    answer = await recommender.similar_videos(video_id, k, deadline_s=request.state.deadline_s)
    _record(request, "similar", answer, _KnownHistory(None, (), 0.0))
    entry = build_answer(answer, user_id=None, started_s=request.state.started_s)
    return _respond(entry, recommender.version)


async def _recommend(
    request: Request, recommender: Recommender, body: RecommendBody
) -> dict[str, object]:
    """One recommendation, from the body to the answer."""
    deadline_s: float = request.state.deadline_s
    known = await _find_history(request.app.state.store, body, deadline_s)
    if isinstance(body, CommentsBody):
        kind = "comments"
        comment_query = build_comment_query(body, known.history, deadline_s)
        answer = await recommender.recommend_comments(comment_query)
    elif isinstance(body, FeedBody):
        kind = "feed"
        feed_query = build_feed_query(body, known.history, deadline_s)
        answer = await recommender.recommend_feed(feed_query)
    else:
        kind = "videos"
        video_query = build_video_query(body, known.history, deadline_s)
        answer = await recommender.recommend_videos(video_query)
    _record(request, kind, answer, known)
    return build_answer(
        answer,
        user_id=body.user_id,
        degraded=known.degraded,
        history_ms=known.took_ms,
        started_s=request.state.started_s,
    )


async def _find_history(
    store: HistoryStore, body: RecommendBody, deadline_s: float
) -> _KnownHistory:
    """The history of the body or else the stored one; none where the store can't be read."""
    started_s = time.monotonic()
    history: EventHistory | None = None
    degraded: tuple[str, ...] = ()
    if body.history is not None:
        history = inline_history(body.history)
    elif body.user_id is not None:
        try:
            async with within_deadline(deadline_s):
                history = await store.fetch_history(body.user_id)
        except HistoryStoreError:
            degraded = ("history_store",)
    return _KnownHistory(history, degraded, (time.monotonic() - started_s) * 1000)


def _record(request: Request, kind: str, answer: Answer, known: _KnownHistory) -> None:
    state = request.app.state
    state.metrics.record_answer(kind, answer, degraded=known.degraded, history_ms=known.took_ms)
    state.quality.record_answer(kind, answer)


def _respond(entry: Mapping[str, object], version: str) -> Response:
    return Response(
        encode_json(entry), headers={"X-Model-Version": version}, media_type="application/json"
    )
