"""The errors a service raises on purpose; what each means in HTTP is said elsewhere.

LsvcrError
├── UnknownVideoError        the current bundle has no such video
├── UnknownModelError        the registry has no such version
├── UnknownExperimentError   nothing of that name is defined
├── ExperimentRefusedError   a definition can't take effect
├── AnalysisError            a report can't be made of what there is
├── AnalysisMissingError     what a report takes isn't installed
├── OverloadedError          the queue is full
├── DeadlineExceededError    the caller's time is up
├── NotReadyError            no bundle is loaded, or not on the wanted device
│   ├── EngineLostError          the engine process is gone, for the moment
│   └── EngineFailedError        the runtime or a driver did not compute this
├── HistoryStoreError        the store did not answer in time
└── RequestError             the request itself is at fault
    ├── InvalidRequestError      a field, a header or the JSON is wrong
    ├── BodyTooLargeError        the body has too many bytes
    ├── UnauthenticatedError     no key, or none that we know
    ├── RateLimitedError         the key asks too often
    └── ForbiddenError           a key of another role
"""

from collections.abc import Sequence

from lsvcr.errors import LsvcrError


class UnknownVideoError(LsvcrError):
    """The bundle has no such video."""


class UnknownModelError(LsvcrError):
    """The registry has no such version, or it isn't loaded."""


class UnknownExperimentError(LsvcrError):
    """No experiment of that name is defined."""


class ExperimentRefusedError(LsvcrError):
    """A definition is well formed, but can't take effect."""


class AnalysisError(LsvcrError):
    """A report can't be made of what there is."""


class AnalysisMissingError(LsvcrError):
    """What a report takes isn't installed."""


class OverloadedError(LsvcrError):
    """The queue is full; trying again later may help."""


class DeadlineExceededError(LsvcrError):
    """The caller's time was up before the answer was there."""


class NotReadyError(LsvcrError):
    """No bundle is loaded, or the wanted device isn't there."""


class EngineLostError(NotReadyError):
    """The engine process is gone; another one is on its way."""


class EngineFailedError(NotReadyError):
    """The runtime or a driver did not compute this: out of memory, say. Less may be possible."""


class HistoryStoreError(LsvcrError):
    """The history store did not answer in time, or failed."""


class RequestError(LsvcrError):
    """The request itself is at fault."""


class InvalidRequestError(RequestError):
    """Something in the request is wrong.

    Attributes:
        errors: Each with its place (`body`, `query`, `path` or `header` first) and what is wrong
            there.
    """

    def __init__(self, errors: Sequence[tuple[Sequence[str | int], str]]) -> None:
        self.errors = tuple(errors)
        location, message = self.errors[0]
        more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
        super().__init__(f"{'.'.join(map(str, location))[:200]}: {message}{more}")


class BodyTooLargeError(RequestError):
    """The body has more bytes than allowed."""


class UnauthenticatedError(RequestError):
    """No key came with the request, or none that we know."""


class ForbiddenError(RequestError):
    """The key is known, but its role may not do this."""


class RateLimitedError(RequestError):
    """The key asks more often than it may."""
