"""One recommendation, from the body to the answer and to what is written down about it."""

import time
from functools import partial

import msgspec
from fastapi import Request
from starlette.datastructures import State

from service.engine.model_pool import ModelPool
from service.engine.queries import Answer, CommentQuery, EventHistory, FeedQuery, VideoQuery
from service.engine.recommender import Recommender
from service.errors import HistoryStoreError
from service.experiments.decision import NO_EXPERIMENT, Decision
from service.experiments.definition import Arm
from service.exposure_log import ExposedTo, Exposure
from service.history_store import HistoryStore
from service.quality_metrics import NO_ARM
from service.routes.arm_choice import choose_arms
from service.routes.exposure_records import build_exposure, build_shadow_exposure
from service.routes.recommendation_answers import build_answer
from service.routes.recommendation_queries import RecommendBody, build_query, inline_history

SHADOW_S = 1.0
"""What a shadow arm may take; nobody waits for it."""

_KINDS = {VideoQuery: "videos", CommentQuery: "comments", FeedQuery: "feed"}


class Recommendation(msgspec.Struct, frozen=True, eq=False):
    """What is answered, and how it came about."""

    content: dict[str, object]
    answer: Answer
    decision: Decision


class _KnownHistory(msgspec.Struct, frozen=True, eq=False):
    """A user's history, what was missing to read it, and how long that took."""

    history: EventHistory | None
    degraded: tuple[str, ...]
    took_ms: float


async def recommend(request: Request, body: RecommendBody) -> Recommendation:
    """Answer a body; what went into it is counted and logged, and shadow arms are begun."""
    state, deadline_s = request.app.state, request.state.deadline_s
    known = await _find_history(state.store, body, deadline_s)
    decision = await choose_arms(request, body.unit_id or body.user_id)
    query = build_query(body, known.history, deadline_s, decision.overrides)
    recommender = _find_recommender(state.models, decision.version)
    answer = await state.guardrails.observe(decision.exposed, _ask(recommender, query))
    content = build_answer(
        answer,
        user_id=body.user_id,
        label=decision.label,
        degraded=known.degraded,
        history_ms=known.took_ms,
        started_s=request.state.started_s,
    )
    recommendation = Recommendation(content, answer, decision)
    kind = _KINDS[type(query)]
    _record(request, kind, recommendation, known)
    exposure = build_exposure(kind, content, answer, body, decision.exposed)
    state.exposures.record(exposure)
    for experiment, arm in decision.shadows:
        answering = partial(_answer_in_shadow, state, body, known, experiment, arm, exposure)
        state.shadow_work.start(answering)
    return recommendation


async def recommend_similar(request: Request, video_id: str, k: int) -> Recommendation:
    """The nearest videos by the current model; nobody is in an experiment."""
    recommender: Recommender = request.app.state.models.current()
    answer = await recommender.similar_videos(video_id, k, deadline_s=request.state.deadline_s)
    content = build_answer(answer, user_id=None, started_s=request.state.started_s)
    recommendation = Recommendation(content, answer, NO_EXPERIMENT)
    _record(request, "similar", recommendation, _KnownHistory(None, (), 0.0))
    return recommendation


async def _answer_in_shadow(
    state: State,
    body: RecommendBody,
    known: _KnownHistory,
    experiment: str,
    arm: Arm,
    shown: Exposure,
) -> None:
    """Compute what an arm would have answered, and log it beside what was shown."""
    started_s = time.monotonic()
    query = build_query(body, known.history, started_s + SHADOW_S, arm.overrides)
    answer = await _ask(_find_recommender(state.models, arm.model_version), query)
    latency_ms = (time.monotonic() - started_s) * 1000
    exposed_to = ExposedTo(experiment, arm.name, "shadow")
    state.exposures.record(build_shadow_exposure(shown, answer, exposed_to, latency_ms))


async def _ask(recommender: Recommender, query: VideoQuery | CommentQuery | FeedQuery) -> Answer:
    if isinstance(query, CommentQuery):
        return await recommender.recommend_comments(query)
    if isinstance(query, FeedQuery):
        return await recommender.recommend_feed(query)
    return await recommender.recommend_videos(query)


def _find_recommender(models: ModelPool, version: str | None) -> Recommender:
    """The arm's bundle; the current one where the arm names none, or it has just been let go."""
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
            history = await store.fetch_history(body.user_id, deadline_s)
        except HistoryStoreError:
            degraded = ("history_store",)
    return _KnownHistory(history, degraded, (time.monotonic() - started_s) * 1000)


def _record(
    request: Request, kind: str, recommendation: Recommendation, known: _KnownHistory
) -> None:
    state, answer = request.app.state, recommendation.answer
    state.metrics.record_answer(kind, answer, degraded=known.degraded, history_ms=known.took_ms)
    label = recommendation.decision.label
    state.quality.record_answer(kind, answer, arm=NO_ARM if label is None else "/".join(label))
    state.tracing.record_stages({"history": known.took_ms, **answer.timings_ms})
