"""Whether the service lives and is ready, and what Prometheus may know."""

import asyncio

import msgspec
from fastapi import APIRouter, Request, Response

from service.answer_schemas import LiveAnswer, ReadyAnswer
from service.engine.model_pool import ModelPool
from service.errors import HistoryStoreError, NotReadyError
from service.history_store import HistoryStore
from service.metrics import CONTENT_TYPE
from service.problem_details import MEDIA_TYPE, describe_problem
from service.routes.recommendation_answers import encode_json

router = APIRouter(tags=["health"])


@router.get("/health/live", responses={200: {"model": LiveAnswer}})
async def live() -> Response:
    """Answers while the process runs."""
    return Response(encode_json({"status": "live"}), media_type="application/json")


@router.get("/health/ready", responses={200: {"model": ReadyAnswer}})
async def ready(request: Request) -> Response:
    """200 only with a bundle loaded, checked and warm, on the wanted device; else the reasons.

    `reduced` instead of `ready` where some engine processes are lost and others answer.
    """
    models: ModelPool = request.app.state.models
    stopping = ["the service is stopping"] if request.app.state.is_draining else []
    if reasons := [*stopping, *models.readiness()]:
        problem, headers = describe_problem(
            NotReadyError("; ".join(reasons)), request.state.request_id
        )
        body = encode_json(msgspec.structs.replace(problem, reasons=reasons))
        return Response(body, problem.status, headers, media_type=MEDIA_TYPE)
    lost = models.lost()
    status = {
        "status": "reduced" if lost else "ready",
        "degraded": [*await _degraded(request.app.state.store), *lost],
        "model": models.current().status(),
    }
    return Response(encode_json(status), media_type="application/json")


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format, of all worker processes together."""
    request.app.state.reporter.report()
    text = await asyncio.to_thread(request.app.state.metrics.render)  # may read files
    return Response(text, headers={"Content-Type": CONTENT_TYPE})


async def _degraded(store: HistoryStore) -> list[str]:
    try:
        await store.check()
    except HistoryStoreError:
        return ["history_store"]
    return []
