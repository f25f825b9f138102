"""Experiments: their definitions, who changed them, and who is in which arm."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.answer_schemas import (
    AssignmentsAnswer,
    AuditAnswer,
    ExperimentAnswer,
    ExperimentsAnswer,
)
from service.auth import ANYBODY, Caller
from service.errors import InvalidRequestError
from service.experiments.definition import Experiment
from service.experiments.definition_changes import DefinitionChanges
from service.experiments.definition_store import Record
from service.experiments.known_experiments import KnownExperiments
from service.experiments.report_process import ReportProcess
from service.routes.json_route import JsonRoute
from service.routes.query_parameters import Decimal, Whole
from service.routes.recommendation_answers import encode_json
from service.schemas import Body, Identifier


class ReportOptions(Body):
    """How to analyse; what isn't said is as `python -m analysis report` does it."""

    format: Literal["json", "html"] | None = Field(
        default=None, description="By default what the request accepts."
    )
    decide_by: Literal["always_valid", "fixed_horizon"] | None = None
    planned_units: Annotated[Whole, Field(ge=2)] | None = Field(
        default=None, description="Of all arms; where the always-valid interval is tightest."
    )
    pre_days: Annotated[Decimal, Field(gt=0, le=365)] | None = Field(
        default=None, description="How far CUPED looks back."
    )
    winsorise: Annotated[Decimal, Field(gt=0.5, lt=1)] | None = Field(
        default=None, description="Quantile above which a unit's values are cut."
    )


router = APIRouter(route_class=JsonRoute, tags=["experiments"])


@router.get("/admin/experiments", responses={200: {"model": ExperimentsAnswer}})
async def list_experiments(request: Request) -> Response:
    """All experiments, the oldest first."""
    records = await _changes(request).fetch_all()
    return _json({"experiments": [_describe(request, record) for record in records]})


@router.get("/admin/experiments/{name}", responses={200: {"model": ExperimentAnswer}})
async def read_experiment(request: Request, name: str) -> Response:
    """One experiment."""
    return _json(_describe(request, await _changes(request).fetch(name)))


@router.put("/admin/experiments/{name}", responses={200: {"model": ExperimentAnswer}})
async def put_experiment(request: Request, body: Experiment, name: str) -> Response:
    """Create or replace a definition; its bundles are loaded and checked before.

    Refused with 409 where a bundle can't be loaded, or a running experiment decides the same.
    """
    if body.name != name:
        raise InvalidRequestError([(("body", "name"), "should be the name in the path")])
    return _json(_describe(request, await _changes(request).put(body, _who(request))))


@router.delete("/admin/experiments/{name}", status_code=204)
async def delete_experiment(request: Request, name: str) -> Response:
    """Forget a definition that isn't running."""
    await _changes(request).delete(name, _who(request))
    return Response(status_code=204)


@router.post("/admin/experiments/{name}/stop", responses={200: {"model": ExperimentAnswer}})
async def stop_experiment(request: Request, name: str) -> Response:
    """Give everybody the control, on every replica within a second."""
    return _json(_describe(request, await _changes(request).stop(name, _who(request))))


@router.get("/admin/experiments/{name}/audit", responses={200: {"model": AuditAnswer}})
async def read_audit(request: Request, name: str) -> Response:
    """Who changed an experiment, the newest change first; also of one that was deleted."""
    return _json({"entries": await _changes(request).fetch_audit(name)})


_REPORT = {"model": dict[str, object], "content": {"text/html": {"schema": {"type": "string"}}}}


@router.get("/admin/experiments/{name}/report", responses={200: _REPORT})
async def read_report(
    request: Request, name: str, options: Annotated[ReportOptions, Query()]
) -> Response:
    """What an experiment found so far: figures as JSON, or a page with plots for a browser.

    Needs the analysis extra where the service runs (else 501); takes seconds.
    """
    record = await _changes(request).fetch(name)
    reports: ReportProcess = request.app.state.reports
    accepted = request.headers.get("accept", "")
    as_page = options.format == "html" or (options.format is None and "text/html" in accepted)
    await request.app.state.exposures.flush()
    plan = options.model_dump_json(exclude={"format"}, exclude_none=True)
    definition = encode_json(_describe(request, record))
    report = await reports.build(definition, plan.encode(), as_page=as_page)
    return Response(report, media_type="text/html" if as_page else "application/json")


@router.get("/experiments/assignment", responses={200: {"model": AssignmentsAnswer}})
async def read_assignment(
    request: Request,
    user_id: Annotated[Identifier | None, Query()] = None,
    unit_id: Annotated[Identifier | None, Query()] = None,
) -> Response:
    """A unit's arms; asking exposes nobody. Without `unit_id` the user is the unit."""
    unit = unit_id or user_id
    if unit is None:
        raise InvalidRequestError([(("query", "user_id"), "Either user_id or unit_id is needed")])
    known: KnownExperiments = request.app.state.experiments
    sticky = await request.app.state.store.fetch_arms(unit) if known.has_sticky else {}
    assignments = [
        {"experiment": one.experiment, "arm": one.arm, "bucket": one.bucket, "reason": one.reason}
        for one in known.assign(unit, sticky)
    ]
    return _json({"assignments": assignments})


def _changes(request: Request) -> DefinitionChanges:
    changes: DefinitionChanges = request.app.state.experiment_changes
    return changes


def _who(request: Request) -> str:
    caller: Caller = getattr(request.state, "caller", ANYBODY)
    return caller.fingerprint


def _describe(request: Request, record: Record) -> dict[str, object]:
    """A definition as it was put, when that was, and whether it is in effect on this replica."""
    known: KnownExperiments = request.app.state.experiments
    return {
        **record.definition.model_dump(mode="json", by_alias=True),
        "created_at": record.created_at,
        "changed_at": record.changed_at,
        "in_effect": known.serving.get(record.definition.name) == record.definition,
    }


def _json(content: object) -> Response:
    return Response(encode_json(content), media_type="application/json")
