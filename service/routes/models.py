"""The registry's bundles: which there are, which one answers, and how to change that."""

import asyncio

from fastapi import APIRouter, Request, Response

from service.answer_schemas import CurrentAnswer, ModelsAnswer
from service.engine.model_pool import ModelPool
from service.routes.recommendation_answers import encode_json

router = APIRouter(prefix="/admin/models", tags=["models"])


@router.get("", responses={200: {"model": ModelsAnswer}})
async def list_models(request: Request) -> Response:
    """The registry's bundles, which are loaded, and which is current."""
    models: ModelPool = request.app.state.models
    listing = await asyncio.to_thread(models.listing)
    current = next((entry["version"] for entry in listing if entry["current"]), None)
    return Response(
        encode_json({"current": current, "models": listing}), media_type="application/json"
    )


@router.post("/rollback", responses={200: {"model": CurrentAnswer}})
async def roll_back(request: Request) -> Response:
    """Serve the version that was current before this one."""
    models: ModelPool = request.app.state.models
    return _current(await models.rollback())


@router.post("/refresh", responses={200: {"model": CurrentAnswer}})
async def refresh(request: Request) -> Response:
    """Look at the registry now, rather than at the next turn."""
    models: ModelPool = request.app.state.models
    return _current(await models.refresh())


@router.post("/{version}/activate", responses={200: {"model": CurrentAnswer}})
async def activate(request: Request, version: str) -> Response:
    """Check, load and warm up a version, then serve it; until then the old one answers."""
    models: ModelPool = request.app.state.models
    await models.activate(version)
    return _current(version)


def _current(version: str) -> Response:
    return Response(encode_json({"current": version}), media_type="application/json")
