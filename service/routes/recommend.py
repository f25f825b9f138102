"""Recommendations: HTTP in, HTTP out."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.answer_schemas import BatchAnswer, CommentsAnswer, FeedAnswer, VideosAnswer
from service.errors import InvalidRequestError
from service.problem_details import describe_problem
from service.routes.json_route import JsonRoute
from service.routes.one_recommendation import Recommendation, recommend, recommend_similar
from service.routes.query_parameters import Whole
from service.routes.recommendation_answers import encode_json
from service.routes.recommendation_queries import RecommendBody
from service.schemas import (
    LIMITED_BY,
    BatchBody,
    CommentsBody,
    FeedBody,
    Identifier,
    Refused,
    VideosBody,
)

router = APIRouter(route_class=JsonRoute, tags=["recommending"])


@router.post("/recommend/videos", responses={200: {"model": VideosAnswer}})
async def recommend_videos(request: Request, body: VideosBody) -> Response:
    """The videos to show next; the popular ones to somebody without a history."""
    return _respond(await recommend(request, body))


@router.post("/recommend/comments", responses={200: {"model": CommentsAnswer}})
async def recommend_comments(request: Request, body: CommentsBody) -> Response:
    """The comments to show under a video, or the best of all videos' comments."""
    return _respond(await recommend(request, body))


@router.post("/recommend/feed", responses={200: {"model": FeedAnswer}})
async def recommend_feed(request: Request, body: FeedBody) -> Response:
    """Videos, each with its best comments, in one pass."""
    return _respond(await recommend(request, body))


@router.post("/recommend/batch", responses={200: {"model": BatchAnswer}})
async def recommend_batch(request: Request, body: BatchBody) -> Response:
    """Many requests at once; one that fails has a problem in its place, and the others stand."""

    async def answer(item: RecommendBody | Refused) -> object:
        try:
            if isinstance(item, Refused):
                raise InvalidRequestError(item.errors)
            return (await recommend(request, item)).content
        except Exception as error:
            return describe_problem(error, request.state.request_id)[0]

    results = await asyncio.gather(*(answer(item) for item in body.requests))
    version: str = request.app.state.models.current().version
    return _json({"results": results}, {"X-Model-Version": version})


@router.get("/videos/{video_id:path}/similar", responses={200: {"model": VideosAnswer}})
async def similar_videos(
    request: Request,
    video_id: Identifier,
    k: Annotated[Whole, Query(ge=1, json_schema_extra={LIMITED_BY: "max_k"})] = 20,
) -> Response:
    """The videos nearest to one, whoever asks."""
    if k > request.app.state.limits.max_k:
        message = f"Input should be at most {request.app.state.limits.max_k}"
        raise InvalidRequestError([(("query", "k"), message)])
    return _respond(await recommend_similar(request, video_id, k))


def _respond(recommendation: Recommendation) -> Response:
    headers = {"X-Model-Version": recommendation.answer.model_version}
    if recommendation.decision.label is not None:
        headers["X-Experiment"], headers["X-Arm"] = recommendation.decision.label
    return _json(recommendation.content, headers)


def _json(content: object, headers: Mapping[str, str]) -> Response:
    return Response(encode_json(content), headers=headers, media_type="application/json")
