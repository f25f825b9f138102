"""Puts the service together: one application from one settings object, and nothing global."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import structlog
from fastapi import Depends, FastAPI
from starlette.middleware import Middleware

from lsvcr import __version__
from lsvcr.errors import LsvcrError
from service.admin_port import AdminPort
from service.admission import Admission
from service.auth import Authentication, KeyRing
from service.body_limit import BodyLimit
from service.draining import drain_on_sigterm
from service.embedded_store import lasting_store
from service.engine.engine import Engine, InlineEngine
from service.engine.engine_client import SHORTEST_BEAT_S, RemoteEngine
from service.engine.engine_group import EngineGroup
from service.engine.model_pool import ModelPool
from service.errors import HistoryStoreError
from service.experiments.definition_changes import DefinitionChanges
from service.experiments.definition_store import DefinitionStore
from service.experiments.guardrail_watch import GuardrailWatch
from service.experiments.known_experiments import KnownExperiments
from service.experiments.report_process import ReportProcess
from service.experiments.shadow_work import ShadowWork
from service.exposure_log import ExposureLog
from service.history_store import HistoryStore
from service.load_shedding import CountUnderWay, LoadShedding
from service.metrics import Metrics
from service.openapi_document import complete_openapi
from service.popularity_follower import PopularityFollower
from service.problem_details import MEDIA_TYPE, add_problem_handlers
from service.quality_metrics import QualityMetrics
from service.rate_limit import RateLimiter
from service.request_context import RequestContext, refuse_late
from service.routes import (
    documentation,
    events,
    experiments,
    health,
    items,
    models,
    playground,
    recommend,
)
from service.routes.hot_routes import HotRoutes, routes_by_path
from service.routes.query_parameters import refuse_unknown
from service.schemas import Limits
from service.settings import EMBEDDED, Settings
from service.state_reporter import StateReporter
from service.store_connection import close_store, connect_store
from service.tracing import Tracing

EXPERIMENT_CONNECTIONS = 8
_RATE_CONNECTIONS = 4
_WAITING_SHARE = 0.2
"""Of its deadline that a recommendation may spend waiting for others."""

logger = structlog.get_logger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Build the application; what it needs is opened when it starts and closed when it ends.

    Raises:
        SettingsError: If a file of keys can't be read or a package is missing.
    """
    metrics = Metrics(max_queue=settings.max_queue)
    quality = QualityMetrics(metrics.registry)
    tracing = Tracing(settings.otlp_endpoint)
    key_ring = KeyRing(settings.keys)
    shedding = LoadShedding(
        paths=routes_by_path(recommend.router.routes),
        metrics=metrics,
        max_wait_s=settings.deadline_ms / 1000 * _WAITING_SHARE,
        most=min(settings.max_under_way, settings.max_queue),
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
            store_url = await _open_store_server(settings, stack)
            app.state.store = await _open_store(store_url, settings, metrics, stack)
            app.state.models = await _open_models(settings, app.state.store, metrics, stack)
            app.state.reporter = StateReporter(app.state.models, app.state.store, metrics, quality)
            stack.callback(app.state.reporter.report)  # what was counted last
            for telling in (app.state.reporter.follow(), app.state.reporter.watch_index()):
                stack.callback(asyncio.create_task(telling).cancel)
            await _open_experiments(app, store_url, settings, stack)
            if settings.drain_s:
                drain_on_sigterm(app, settings.drain_s)
            if settings.key_rate_per_s:
                app.state.rate_limiter = _open_rate_limiter(store_url, settings, stack)
            if key_ring:
                stack.callback(asyncio.create_task(_follow_keys(settings, key_ring)).cancel)
            yield {"load_shedding": shedding}

    app = FastAPI(
        title="LSVCR",
        version=__version__,
        summary="Recommends videos and, under each video, its comments.",
        lifespan=lifespan,
        docs_url=None,  # the framework's pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        middleware=_middleware(settings, metrics, key_ring, shedding),
        telemetry=tracing.telemetry(),
        responses={"4XX": _PROBLEM, "5XX": _PROBLEM},
    )
    app.state.metrics = metrics
    app.state.is_draining = False
    app.state.rate_limiter = None
    app.state.quality = quality
    app.state.tracing = tracing
    app.state.limits = _limits(settings)
    app.state.trusts_arm_header = settings.trust_arm_header
    strict = [Depends(refuse_unknown), Depends(refuse_late)]
    routed = (recommend, items, events, models, experiments, health, documentation, playground)
    for module in routed:
        is_strict = module not in (health, documentation, playground)
        app.include_router(module.router, dependencies=strict if is_strict else [])
    add_problem_handlers(app)
    complete_openapi(app, app.state.limits)
    return app


_PROBLEM: dict[str, Any] = {
    "description": "A problem (RFC 9457)",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}},
}


def _middleware(
    settings: Settings, metrics: Metrics, key_ring: KeyRing, shedding: LoadShedding
) -> list[Middleware]:
    """From the outside in; keys are checked only where there are some."""
    counting = Middleware(CountUnderWay, shedding=shedding)
    context = Middleware(RequestContext, metrics=metrics, deadline_ms=settings.deadline_ms)
    outer = [counting, context]
    if settings.admin_port is not None:
        outer.append(Middleware(AdminPort, port=settings.admin_port))
    if key_ring:
        outer.append(Middleware(Authentication, key_ring=key_ring))
    admission = Middleware(Admission, max_under_way=settings.max_under_way)
    body_limit = Middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    hot_routes = Middleware(HotRoutes, routes=[*recommend.router.routes, *events.router.routes])
    if settings.otlp_endpoint is not None:  # the framework's own way makes the spans
        return [*outer, admission, body_limit]
    return [*outer, admission, body_limit, hot_routes]


def _limits(settings: Settings) -> Limits:
    return Limits(**{name: getattr(settings, name) for name in Limits.__annotations__})


async def _open_store_server(settings: Settings, stack: contextlib.AsyncExitStack) -> str:
    """Start the embedded store where it is wanted; its URL, or the one of the settings."""
    if settings.redis != EMBEDDED:
        return settings.store_url
    running = lasting_store(settings.store_folder)
    embedded = await asyncio.to_thread(running.__enter__)
    stack.push_async_callback(asyncio.to_thread, running.__exit__, None, None, None)
    return embedded.url


async def _open_store(
    url: str, settings: Settings, metrics: Metrics, stack: contextlib.AsyncExitStack
) -> HistoryStore:
    """Connect to the store; if it isn't there we start all the same and answer without it."""
    store = HistoryStore(
        url,
        read_timeout_ms=settings.store_timeout_ms,
        write_timeout_ms=settings.store_write_timeout_ms,
        max_events=settings.history_max_events,
        expiry_s=settings.history_days * 86_400,
        log_shards=settings.store_shards,
        log_max_entries=settings.event_log_max_entries,
        on_failure=metrics.store_failures.inc,
    )
    stack.push_async_callback(store.close)
    try:
        await store.check()
        await store.migrate()
    except HistoryStoreError as error:
        logger.warning("starting without histories", reason=str(error))
    return store


async def _open_models(
    settings: Settings,
    store: HistoryStore,
    metrics: Metrics,
    stack: contextlib.AsyncExitStack,
) -> ModelPool:
    engine = _choose_engine(settings)
    stack.push_async_callback(engine.close)
    pool = ModelPool(
        settings.registry,
        engine,
        max_queue=settings.max_queue,
        max_batch=settings.max_batch,
        only=settings.model_version,
    )
    stack.push_async_callback(pool.close)
    follower = PopularityFollower(store, pool)
    await follower.refresh()  # a bundle answers with what is popular now from the first
    await pool.open()
    for watching in (
        _watch_registry(pool, settings.refresh_s, metrics),
        follower.follow(settings.popularity_refresh_s),
    ):
        stack.callback(asyncio.create_task(watching).cancel)
    return pool


async def _open_experiments(
    app: FastAPI, url: str, settings: Settings, stack: contextlib.AsyncExitStack
) -> None:
    """Follow the experiments and log exposures; without the store we start with none."""
    metrics: Metrics = app.state.metrics
    timeout_s = settings.store_write_timeout_ms / 1000
    redis = connect_store(url, timeout_s=timeout_s, max_connections=EXPERIMENT_CONNECTIONS)
    stack.push_async_callback(close_store, redis)
    exposures = ExposureLog(
        redis,
        timeout_s=timeout_s,
        max_entries=settings.exposure_log_max_entries,
        on_outcome=metrics.record_exposures,
    )
    stack.push_async_callback(exposures.close)
    stack.callback(asyncio.create_task(exposures.follow()).cancel)
    shadow_work = ShadowWork(metrics.record_shadow)
    stack.push_async_callback(shadow_work.close)
    store = DefinitionStore(redis, timeout_s=timeout_s)
    known = KnownExperiments(store, app.state.models, on_change=metrics.record_experiments)
    stack.push_async_callback(known.close)
    try:
        await known.refresh()
        await known.warm()
    except HistoryStoreError as error:
        logger.warning("starting without experiments", reason=str(error))
    stack.callback(asyncio.create_task(known.follow(settings.experiments_refresh_s)).cancel)
    changes = DefinitionChanges(store, known, app.state.models)
    app.state.experiments = known
    app.state.experiment_changes = changes
    app.state.guardrails = GuardrailWatch(
        known, changes.stop, on_stop=metrics.record_guardrail_stop
    )
    app.state.exposures = exposures
    folder = settings.report_folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
    app.state.reports = ReportProcess(url, folder)
    app.state.shadow_work = shadow_work


def _choose_engine(settings: Settings) -> Engine:
    if sockets := settings.engine_sockets:
        # Four beats without a sign, and most of the deadline is left to answer without the engine.
        beat_s = max(SHORTEST_BEAT_S, settings.deadline_ms / 10_000)
        engines = [RemoteEngine(settings.registry, socket, beat_s=beat_s) for socket in sockets]
        return engines[0] if len(engines) == 1 else EngineGroup(engines)
    return InlineEngine(settings.registry, device=settings.device, max_batch=settings.max_batch)


def _open_rate_limiter(
    url: str, settings: Settings, stack: contextlib.AsyncExitStack
) -> RateLimiter:
    timeout_s = settings.store_timeout_ms / 1000
    redis = connect_store(url, timeout_s=timeout_s, max_connections=_RATE_CONNECTIONS)
    stack.push_async_callback(close_store, redis)
    return RateLimiter(
        redis,
        rate_per_s=settings.key_rate_per_s,
        burst=settings.key_burst,
        timeout_s=timeout_s,
    )


async def _follow_keys(settings: Settings, key_ring: KeyRing) -> None:
    """Take over what changes in the files of keys; while one can't be read, what was known.

    Only what two looks in a row agree on: a file that is being written may be empty for a moment.
    """
    seen = None
    while True:
        await asyncio.sleep(settings.keys_refresh_s)
        try:
            before, seen = seen, await asyncio.to_thread(lambda: settings.keys)
            if seen == before:
                key_ring.replace(seen)
        except LsvcrError as error:
            logger.error("the keys stay as they were", reason=str(error))


async def _watch_registry(pool: ModelPool, every_s: float, metrics: Metrics) -> None:
    """Follow what other processes activate."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await pool.refresh()
        except LsvcrError as error:
            metrics.model_refusals.inc()
            logger.warning("the registry's current bundle is not usable", reason=str(error))
        except Exception:
            logger.exception("looking at the registry failed")
