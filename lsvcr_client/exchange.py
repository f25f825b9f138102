"""One request from its first attempt to its answer, without any input or output of its own."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

import msgspec

from lsvcr_client.answers import Problem
from lsvcr_client.errors import (
    ClientError,
    DeadlineExceededError,
    NoAnswerError,
    ProblemError,
)
from lsvcr_client.requests import Request

AnswerT = TypeVar("AnswerT")

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
BUSY = 503
"""Nothing was done, and it may be well again in a moment."""
IN_DOUBT = frozenset({502, 504})
"""As lost connections: it may have been done, so only what is repeatable is sent again."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often to try again, and how long to wait before.

    The wait before attempt n + 1 is what the service asked for (`Retry-After`) plus a random part
    of min(`max_wait_s`, `first_wait_s` × 2ⁿ⁻¹): clients refused together don't return together.
    """

    attempts: int = 4
    first_wait_s: float = 0.1
    max_wait_s: float = 2.0


class Exchange(Generic[AnswerT]):
    """What to send next, and what came of it.

    Args:
        request: What is asked.
        retries: When to give up.
        timeout_s: For all attempts and the waits between them.
        key: API key, if the service wants one.
        headers: More headers.
    """

    def __init__(
        self,
        request: Request[AnswerT],
        *,
        retries: Retries,
        timeout_s: float,
        key: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self.method = request.method
        self.target = request.target()
        self.content = request.content()
        self._request = request
        self._retries = retries
        self._attempt = 0
        self._end_s = time.monotonic() + timeout_s
        self._headers = {"Accept": "application/json", **headers}
        if self.content is not None:
            self._headers["Content-Type"] = "application/json"
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    def begin_attempt(self) -> tuple[dict[str, str], float]:
        """Headers of the next attempt, and the seconds it may take.

        Raises:
            DeadlineExceededError: If the time is up.
        """
        remaining_s = self._end_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceededError(f"{self.method} {self.target}: the time is up")
        self._attempt += 1
        deadline = {"X-Deadline-Ms": str(max(1, int(remaining_s * 1000)))}
        return {**self._headers, **deadline}, remaining_s

    def read(self, content: bytes) -> AnswerT:
        """Read the body of a good answer; raises NoAnswerError where it is none of the service."""
        try:
            return self._request.read(content)
        except msgspec.MsgspecError as error:
            raise NoAnswerError(f"{self.method} {self.target}: {error}") from error

    def wait_after_problem(self, status: int, headers: Mapping[str, str], content: bytes) -> float:
        """Seconds until the next attempt, after an answer that wasn't a good one.

        Raises:
            ProblemError: If another attempt would make no difference or come too late.
        """
        error = ProblemError(_read_problem(status, headers, content))
        if status != BUSY and not (status in IN_DOUBT and self._request.is_repeatable):
            raise error
        return self._wait(error, _retry_after(headers))

    def wait_after_failure(self, error: Exception, *, was_sent: bool) -> float:
        """Seconds until the next attempt, after an attempt without an answer.

        Args:
            error: What went wrong.
            was_sent: Whether the request may have reached the service.

        Raises:
            NoAnswerError: If there is to be no other attempt.
            DeadlineExceededError: If it took all the time there was.
        """
        failure: ClientError
        failure = NoAnswerError(f"{self.method} {self.target}: {type(error).__name__} {error}")
        if time.monotonic() >= self._end_s:
            failure = DeadlineExceededError(f"{self.method} {self.target}: the time is up")
        if was_sent and not self._request.is_repeatable:
            raise failure from error
        return self._wait(failure, 0.0)

    def _wait(self, error: ClientError, asked_s: float) -> float:
        """Draw a wait; raises `error` if there may be no other attempt, or no time for one."""
        most_s = self._retries.first_wait_s * 2 ** (self._attempt - 1)
        jitter_s = random.uniform(0, min(most_s, self._retries.max_wait_s))
        wait_s = asked_s + jitter_s
        if self._attempt >= self._retries.attempts or wait_s >= self._end_s - time.monotonic():
            raise error
        return wait_s


def _read_problem(status: int, headers: Mapping[str, str], content: bytes) -> Problem:
    """The service's problem document; a proxy's page is told by its status alone."""
    try:
        return msgspec.json.decode(content, type=Problem)
    except msgspec.MsgspecError:
        detail = "the answer is no problem document"
        return Problem("about:blank", "HTTP error", status, detail, headers.get("x-request-id", ""))


def _retry_after(headers: Mapping[str, str]) -> float:
    """`Retry-After` in seconds; 0 without one, or for a date, which the service never sends."""
    try:
        return max(0.0, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
