"""The one place that maps errors to HTTP: RFC 9457 problem documents."""

from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from lsvcr.errors import BundleError, LsvcrError
from service.errors import (
    AnalysisError,
    AnalysisMissingError,
    BodyTooLargeError,
    DeadlineExceededError,
    ExperimentRefusedError,
    ForbiddenError,
    HistoryStoreError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    RateLimitedError,
    UnauthenticatedError,
    UnknownExperimentError,
    UnknownModelError,
    UnknownVideoError,
)
from service.schemas import describe_errors

MEDIA_TYPE = "application/problem+json"

_MAX_ERRORS = 50
_MAX_LOCATION = 128

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    type: str
    title: str
    headers: dict[str, str] = field(default_factory=dict)


_BUSY = {"Retry-After": "1"}
_KINDS: dict[type[Exception], _Kind] = {
    UnknownVideoError: _Kind(404, "unknown-video", "There is no such video"),
    UnknownModelError: _Kind(404, "unknown-model", "There is no such model"),
    UnknownExperimentError: _Kind(404, "unknown-experiment", "There is no such experiment"),
    ExperimentRefusedError: _Kind(409, "experiment-refused", "The experiment can't take effect"),
    AnalysisError: _Kind(409, "no-report", "There is no report to make"),
    AnalysisMissingError: _Kind(501, "analysis-missing", "Reports are not installed here"),
    OverloadedError: _Kind(503, "overloaded", "Too many requests are waiting", _BUSY),
    DeadlineExceededError: _Kind(504, "deadline-exceeded", "The time for this request is up"),
    NotReadyError: _Kind(503, "not-ready", "The service is not ready", {"Retry-After": "5"}),
    HistoryStoreError: _Kind(503, "history-store", "The history store does not answer", _BUSY),
    BundleError: _Kind(409, "bundle-refused", "The bundle is not usable"),
    InvalidRequestError: _Kind(422, "invalid-request", "The request is not valid"),
    BodyTooLargeError: _Kind(413, "body-too-large", "The request body is too large"),
    UnauthenticatedError: _Kind(
        401, "unauthenticated", "A valid key is needed", {"WWW-Authenticate": "Bearer"}
    ),
    RateLimitedError: _Kind(429, "rate-limited", "This key asks too often", _BUSY),
    ForbiddenError: _Kind(403, "forbidden", "This key may not do that"),
}
_UNEXPECTED = _Kind(500, "internal", "Something went wrong on our side")


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document; `errors` only with status 422, `reasons` only where we aren't ready."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[dict[str, object]] | None = None
    reasons: list[str] | None = None


def describe_problem(error: Exception, request_id: str) -> tuple[Problem, dict[str, str]]:
    """Make the document of any error, and the headers that go with it.

    An unexpected error's own text goes to the log, never into the document.
    """
    if isinstance(error, HTTPException):
        return _of_http_exception(error, request_id), dict(error.headers or {})
    if isinstance(error, RequestValidationError):
        error = InvalidRequestError(describe_errors(error.errors()))
    kind = next((_KINDS[base] for base in type(error).__mro__ if base in _KINDS), _UNEXPECTED)
    if kind is _UNEXPECTED:
        logger.error("unexpected error", exc_info=error)
    problem = Problem(
        type=f"urn:lsvcr:problem:{kind.type}",
        title=kind.title,
        status=kind.status,
        detail=kind.title if kind is _UNEXPECTED else str(error),
        request_id=request_id,
        errors=_error_list(error) if isinstance(error, InvalidRequestError) else None,
    )
    return problem, kind.headers


def problem_response(error: Exception, request_id: str) -> Response:
    """Render any error as an answer."""
    problem, headers = describe_problem(error, request_id)
    return Response(msgspec.json.encode(problem), problem.status, headers, media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Let every error that a route or the router raises become a problem document."""

    async def handle(request: Request, error: Exception) -> Response:
        return problem_response(error, request.state.request_id)

    for kind in (HTTPException, RequestValidationError, LsvcrError):
        app.add_exception_handler(kind, handle)


def _of_http_exception(error: HTTPException, request_id: str) -> Problem:
    """What the router raises: no such path, no such method."""
    title = HTTPStatus(error.status_code).phrase
    return Problem("about:blank", title, error.status_code, title, request_id)


def _error_list(error: InvalidRequestError) -> list[dict[str, object]]:
    return [
        {
            "loc": [part[:_MAX_LOCATION] if isinstance(part, str) else part for part in location],
            "msg": message,
        }
        for location, message in error.errors[:_MAX_ERRORS]
    ]
