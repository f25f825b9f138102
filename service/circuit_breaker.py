"""Stops asking a failing service for a while, so that its time-outs don't slow every request."""

import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after some failures in a row; then lets one call through in each pause.

    Args:
        failures: This many failures in a row open it.
        pause_s: How long nobody asks, once it is open.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        pause_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._pause_s = pause_s
        self._clock = clock
        self._failures = 0
        self._closed_from_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the last calls failed, and no call has succeeded since."""
        return self._failures >= self._limit

    def lets_through(self) -> bool:
        """Whether to make this call; its outcome must be recorded."""
        if not self.is_open:
            return True
        now_s = self._clock()
        if now_s < self._closed_from_s:
            return False
        self._closed_from_s = now_s + self._pause_s  # one probe a pause, whatever becomes of it
        return True

    def record_success(self) -> None:
        """The call was answered."""
        self._failures = 0

    def record_failure(self) -> None:
        """The call failed, or took too long."""
        self._failures += 1
        if self._failures == self._limit:
            self._closed_from_s = self._clock() + self._pause_s
