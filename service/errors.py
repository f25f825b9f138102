"""The errors a service raises on purpose; what each means in HTTP is said elsewhere.

LsvcrError
├── UnknownVideoError        the current bundle has no such video
├── UnknownModelError        the registry has no such version
├── OverloadedError          the queue is full
├── DeadlineExceededError    the caller's time is up
├── NotReadyError            no bundle is loaded, or not on the wanted device
└── HistoryStoreError        the store did not answer in time
"""

from lsvcr.errors import LsvcrError


class UnknownVideoError(LsvcrError):
    """The bundle has no such video."""


class UnknownModelError(LsvcrError):
    """The registry has no such version, or it isn't loaded."""


class OverloadedError(LsvcrError):
    """The queue is full; trying again later may help."""


class DeadlineExceededError(LsvcrError):
    """The caller's time was up before the answer was there."""


class NotReadyError(LsvcrError):
    """No bundle is loaded, or the wanted device isn't there."""


class HistoryStoreError(LsvcrError):
    """The history store did not answer in time, or failed."""
