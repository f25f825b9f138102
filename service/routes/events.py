"""Events in; users' histories out, exported and erased."""

from functools import partial
from typing import Annotated, cast

from fastapi import APIRouter, Query, Request, Response
from opentelemetry.trace import Tracer

from service.answer_schemas import EventsAnswer, ExportAnswer, HistoryAnswer, UsersAnswer
from service.deadline import within_deadline
from service.event_log import Event
from service.event_schemas import EventsBody
from service.experiments.known_experiments import KnownExperiments
from service.exposure_log import ExposureLog
from service.history_store import AppendResult, HistoryStore
from service.history_value import StoredEvent
from service.metrics import Metrics
from service.quality_metrics import NO_ARM
from service.routes.json_route import JsonRoute
from service.routes.query_parameters import Whole
from service.routes.recommendation_answers import encode_json
from service.schemas import Identifier, Refused

router = APIRouter(route_class=JsonRoute)


@router.post("/events", tags=["events"], responses={200: {"model": EventsAnswer}})
async def append_events(request: Request, body: EventsBody) -> Response:
    """Store events; what is accepted is in the store, and the next recommendation sees it."""
    store: HistoryStore = request.app.state.store
    metrics: Metrics = request.app.state.metrics
    entries = cast("list[Event | Refused]", body.events)
    events = [entry for entry in entries if isinstance(entry, Event)]
    rejected = [
        {"index": index, "detail": _describe(entry)}
        for index, entry in enumerate(entries)
        if isinstance(entry, Refused)
    ]
    tracer: Tracer = request.app.state.tracing.tracer
    append = tracer.start_as_current_span("append_events")
    with within_deadline(request.state.deadline_s), append:
        result = await store.append_events(events) if events else AppendResult(0, 0)
    metrics.events.labels("accepted").inc(result.accepted)
    metrics.events.labels("duplicate").inc(result.duplicates)
    metrics.events.labels("rejected").inc(len(rejected))
    arm_of = partial(_arm_of, request.app.state.experiments)
    request.app.state.quality.record_feedback(events, arm_of)
    return _json(
        {"accepted": result.accepted, "duplicates": result.duplicates, "rejected": rejected}
    )


@router.get("/users", tags=["users"], responses={200: {"model": UsersAnswer}})
async def list_recent_users(
    request: Request, limit: Annotated[Whole, Query(ge=1, le=100)] = 20
) -> Response:
    """Users of the newest events, to look at some without knowing an id."""
    store: HistoryStore = request.app.state.store
    return _json({"user_ids": await store.fetch_recent_users(limit)})


@router.get(
    "/users/{user_id:path}/history", tags=["users"], responses={200: {"model": HistoryAnswer}}
)
async def read_history(request: Request, user_id: Identifier) -> Response:
    """A user's stored history, each side oldest first; empty for an unknown user."""
    store: HistoryStore = request.app.state.store
    videos, comments = await store.fetch_events(user_id)
    return _json(_history(user_id, videos, comments))


@router.get(
    "/users/{user_id:path}/export", tags=["users"], responses={200: {"model": ExportAnswer}}
)
async def export_user(request: Request, user_id: Identifier) -> Response:
    """All that is stored about a user."""
    store: HistoryStore = request.app.state.store
    stored = await store.export_user(user_id)
    exposures: ExposureLog = request.app.state.exposures
    return _json(
        {
            "user_id": user_id,
            "history": _history(user_id, stored.videos, stored.comments),
            "views": [_entry("comment_id", event) for event in stored.views],
            "event_log": stored.logged,
            "arms": stored.arms,
            "exposures": await exposures.fetch_user(user_id),
        }
    )


@router.delete("/users/{user_id:path}", tags=["users"], status_code=204)
async def erase_user(request: Request, user_id: Identifier) -> Response:
    """Erase a user's history, arms and log entries. Once answered, nothing of them is left."""
    store: HistoryStore = request.app.state.store
    exposures: ExposureLog = request.app.state.exposures
    await store.erase_user(user_id)
    await exposures.erase_user(user_id)
    return Response(status_code=204)


def _arm_of(experiments: KnownExperiments, user_id: str) -> str:
    """As a recommendation would be counted, where the user is the unit and no arm was forced."""
    label = experiments.decide(user_id, {}).label
    return NO_ARM if label is None else "/".join(label)


def _describe(refused: Refused) -> str:
    place, message = refused.errors[0]
    return f"{'.'.join(map(str, place))}: {message}"[:300] if place else message[:300]


def _history(
    user_id: str, videos: list[StoredEvent], comments: list[StoredEvent]
) -> dict[str, object]:
    return {
        "user_id": user_id,
        "videos": [_entry("video_id", event) for event in videos],
        "comments": [_entry("comment_id", event) for event in comments],
    }


def _entry(id_name: str, event: StoredEvent) -> dict[str, object]:
    return {id_name: event.item_id, "type": event.type, "timestamp": event.timestamp_ms}


def _json(content: object) -> Response:
    return Response(encode_json(content), media_type="application/json")
