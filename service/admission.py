"""Who gets in when there is much to do: ASGI middleware behind the check of keys.

Requests under way are bounded, and the less a request matters, the earlier it is refused:
recommendations last, events before them, what admins read first. No key may take all the room.
"""

from collections import Counter
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth import ADMIN, ANYBODY, Caller, role_needed
from service.errors import OverloadedError, RateLimitedError

if TYPE_CHECKING:
    from service.rate_limit import RateLimiter

SHARE_OF_ROLE = {"recommend": 1.0, "ingest": 0.8, ADMIN: 0.5}
"""How full the service may be for a request of this role to get in."""
SHARE_OF_KEY = 0.7
"""How much of the room the requests of one key may take."""


class Admission:
    """Counts what is under way, by key and in all.

    Args:
        max_under_way: Requests at once in this process.

    Raises:
        OverloadedError: If there is no room for a request of this role or key.
        RateLimitedError: If the key asks more often than it may.
    """

    def __init__(self, app: ASGIApp, *, max_under_way: int) -> None:
        self._app = app
        self._max = max_under_way
        self._total = 0
        self._by_caller: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it at once."""
        role = role_needed(scope["path"]) if scope["type"] == "http" else None
        if role is None:  # health checks and metrics are never refused
            await self._app(scope, receive, send)
            return
        known: Caller = scope["state"].get("caller", ANYBODY)
        caller = "" if known is ANYBODY else known.fingerprint
        await self._check(scope, role, caller)
        self._total += 1
        self._by_caller[caller] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._total -= 1
            self._by_caller[caller] -= 1
            if not self._by_caller[caller]:
                del self._by_caller[caller]

    async def _check(self, scope: Scope, role: str, caller: str) -> None:
        if self._total >= self._max * SHARE_OF_ROLE[role]:
            raise OverloadedError("too many requests are under way")
        if not caller:
            return
        if self._by_caller[caller] >= self._max * SHARE_OF_KEY:
            raise OverloadedError("too many requests of this key are under way")
        limiter: RateLimiter | None = scope["app"].state.rate_limiter
        if limiter is not None and not await limiter.allows(caller):
            raise RateLimitedError("this key asks more often than it may")
