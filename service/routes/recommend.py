"""Recommendations: HTTP in, HTTP out."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.answer_schemas import BatchAnswer, CommentsAnswer, FeedAnswer, VideosAnswer
from service.engine.model_pool import ModelPool
from service.engine.queries import Answer, CommentQuery, EventHistory, FeedQuery, VideoQuery
from service.engine.recommender import Recommender
from service.errors import HistoryStoreError, InvalidRequestError
from service.experiments.decision import NO_EXPERIMENT, Decision
from service.history_store import HistoryStore
from service.problem_details import describe_problem
from service.quality_metrics import NO_ARM
from service.routes.arm_choice import choose_arms
from service.routes.deadline import within_deadline
from service.routes.json_route import JsonRoute
from service.routes.recommendation_answers import build_answer, encode_json
from service.routes.recommendation_queries import RecommendBody, build_query, inline_history
from service.schemas import BatchBody, CommentsBody, FeedBody, Identifier, Refused, VideosBody

router = APIRouter(route_class=JsonRoute, tags=["recommending"])

_KINDS = {VideoQuery: "videos", CommentQuery: "comments", FeedQuery: "feed"}


@dataclass(frozen=True, slots=True)
class _KnownHistory:
    """A user's history, what was missing to read it, and how long that took."""

    history: EventHistory | None
    degraded: tuple[str, ...]
    took_ms: float


@dataclass(frozen=True, slots=True)
class _Recommendation:
    """What is answered, and how it came about."""

    content: dict[str, object]
    answer: Answer
    decision: Decision


@router.post("/recommend/videos", responses={200: {"model": VideosAnswer}})
async def recommend_videos(request: Request, body: VideosBody) -> Response:
    """The videos to show next; the popular ones to somebody without a history."""
    return _respond(request, await _recommend(request, body))


@router.post("/recommend/comments", responses={200: {"model": CommentsAnswer}})
async def recommend_comments(request: Request, body: CommentsBody) -> Response:
    """The comments to show under a video, or the best of all videos' comments."""
    return _respond(request, await _recommend(request, body))


@router.post("/recommend/feed", responses={200: {"model": FeedAnswer}})
async def recommend_feed(request: Request, body: FeedBody) -> Response:
    """Videos, each with its best comments, in one pass."""
    return _respond(request, await _recommend(request, body))


@router.post("/recommend/batch", responses={200: {"model": BatchAnswer}})
async def recommend_batch(request: Request, body: BatchBody) -> Response:
    """Many requests at once; one that fails has a problem in its place, and the others stand."""

    async def answer(item: RecommendBody | Refused) -> object:
        try:
            if isinstance(item, Refused):
                raise InvalidRequestError(item.errors)
            return (await _recommend(request, item)).content
        except Exception as error:
            return describe_problem(error, request.state.request_id)[0]

    results = await asyncio.gather(*(answer(item) for item in body.requests))
    version: str = request.app.state.models.current().version
    return _json({"results": results}, {"X-Model-Version": version})


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
    _record(request, "similar", answer, _KnownHistory(None, (), 0.0), NO_EXPERIMENT)
    entry = build_answer(answer, user_id=None, started_s=request.state.started_s)
    return _respond(request, _Recommendation(entry, answer, NO_EXPERIMENT))


async def _recommend(request: Request, body: RecommendBody) -> _Recommendation:
    """One recommendation, from the body to the answer."""
    deadline_s: float = request.state.deadline_s
    known = await _find_history(request.app.state.store, body, deadline_s)
    decision = await choose_arms(request, body.unit_id or body.user_id)
    query = build_query(body, known.history, deadline_s, decision.overrides)
    answer = await _ask(_find_recommender(request.app.state.models, decision), query)
    _record(request, _KINDS[type(query)], answer, known, decision)
    entry = build_answer(
        answer,
        user_id=body.user_id,
        label=decision.label,
        degraded=known.degraded,
        history_ms=known.took_ms,
        started_s=request.state.started_s,
    )
    return _Recommendation(entry, answer, decision)


async def _ask(recommender: Recommender, query: VideoQuery | CommentQuery | FeedQuery) -> Answer:
    if isinstance(query, CommentQuery):
        return await recommender.recommend_comments(query)
    if isinstance(query, FeedQuery):
        return await recommender.recommend_feed(query)
    return await recommender.recommend_videos(query)


def _find_recommender(models: ModelPool, decision: Decision) -> Recommender:
    """The arm's bundle; the current one where the arm names none, or it has just been let go."""
    version = decision.version
    return models.get(version) if version and models.has(version) else models.current()


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


def _record(
    request: Request, kind: str, answer: Answer, known: _KnownHistory, decision: Decision
) -> None:
    state = request.app.state
    state.metrics.record_answer(kind, answer, degraded=known.degraded, history_ms=known.took_ms)
    arm = NO_ARM if decision.label is None else "/".join(decision.label)
    state.quality.record_answer(kind, answer, arm=arm)
    state.tracing.record_stages({"history": known.took_ms, **answer.timings_ms})


def _respond(request: Request, recommendation: _Recommendation) -> Response:
    headers = {"X-Model-Version": recommendation.answer.model_version}
    if recommendation.decision.label is not None:
        headers["X-Experiment"], headers["X-Arm"] = recommendation.decision.label
    return _json(recommendation.content, headers)


def _json(content: object, headers: Mapping[str, str]) -> Response:
    return Response(encode_json(content), headers=headers, media_type="application/json")
