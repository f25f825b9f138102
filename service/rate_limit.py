"""How often each key may ask: a token bucket in the store that all processes share.

A process takes some tokens at once and spends them by itself, so that most requests ask nobody.
Without the store each process keeps to the limit by a bucket of its own.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from service.errors import HistoryStoreError
from service.store_connection import finish_within

LEASE_S = 0.1
"""A lease is what a key may spend in this time: what a process that dies takes along."""
REFUSED_S = 0.05
"""After an empty bucket the store isn't asked again for this long."""
STORE_PAUSE_S = 1.0
_SCRIPT = "rate_lease.lua"


@dataclass(slots=True)
class _Purse:
    """What this process may still spend of one caller's tokens."""

    tokens: float = 0.0
    counted_s: float = -math.inf  # so that it is full where no store can tell
    not_before_s: float = 0.0
    lease: asyncio.Task[None] | None = None


class RateLimiter:
    """Says whether a caller may ask now.

    Args:
        redis: A client of the store.
        rate_per_s: Requests a second and caller, over all processes.
        burst: Most that a caller may save up.
        timeout_s: For one lease.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        redis: Any,
        *,
        rate_per_s: float,
        burst: int,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._timeout_s = timeout_s
        self._clock = clock
        self._script = resources.files("service").joinpath(_SCRIPT).read_bytes()
        self._lease_size = max(1, min(burst, round(rate_per_s * LEASE_S)))
        self._purses: dict[str, _Purse] = {}
        self._alone_until_s = 0.0

    async def allows(self, caller: str) -> bool:
        """Spend one token of a caller, if there is one."""
        purse = self._purses.setdefault(caller, _Purse())
        if purse.tokens < 1:
            if self._clock() < self._alone_until_s:
                self._refill_alone(purse)
            elif self._clock() >= purse.not_before_s:
                if purse.lease is None:
                    purse.lease = asyncio.ensure_future(self._take_lease(caller, purse))
                await asyncio.shield(purse.lease)
        if purse.tokens < 1:
            return False
        purse.tokens -= 1
        return True

    async def _take_lease(self, caller: str, purse: _Purse) -> None:
        call = self._redis.eval(
            self._script,
            1,
            f"lsvcr:rate:{caller}",
            self._rate_per_s,
            self._burst,
            self._lease_size,
        )
        try:
            taken = await finish_within(call, self._timeout_s)
        except HistoryStoreError:
            self._alone_until_s = self._clock() + STORE_PAUSE_S
            self._refill_alone(purse)
        else:
            purse.tokens += taken
            purse.counted_s = self._clock()
            if not taken:
                purse.not_before_s = self._clock() + REFUSED_S
        finally:
            purse.lease = None

    def _refill_alone(self, purse: _Purse) -> None:
        """Add what came meanwhile, as if there were no other process."""
        now_s = self._clock()
        earned = (now_s - purse.counted_s) * self._rate_per_s
        purse.tokens = min(float(self._burst), purse.tokens + earned)
        purse.counted_s = now_s
