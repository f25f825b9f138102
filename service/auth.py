"""Who may do what: three roles, told apart by API keys; the first thing a request meets.

    recommend   /recommend, /videos, /comments, /experiments
    ingest      /events
    admin       everything

Paths that are open to all are listed; any other needs `admin`, so that a forgotten route is closed.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ForbiddenError, UnauthenticatedError

ADMIN = "admin"
_FINGERPRINT_DIGITS = 12
OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/metrics", "/health/live", "/health/ready"})
OPEN_PREFIX = "/playground/"
_ROLE_OF_PREFIX = {
    "/recommend/": "recommend",
    "/videos": "recommend",
    "/comments": "recommend",
    "/experiments/": "recommend",
    "/events": "ingest",
}


def role_needed(path: str) -> str | None:
    """The role that a path asks for; None where it is open to all."""
    if path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
        return None
    for prefix, role in _ROLE_OF_PREFIX.items():
        if path.startswith(prefix):
            return role
    return ADMIN


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request; in its state as `caller`, where there are keys.

    Attributes:
        fingerprint: Tells keys apart in logs, and tells nothing about them.
    """

    fingerprint: str
    is_admin: bool


ANYBODY = Caller("no key", True)
"""Whoever sends a request where there are no keys."""


class KeyRing:
    """Knows the keys of each role, as digests only.

    Args:
        keys: By role.
    """

    def __init__(self, keys: Mapping[str, Sequence[str]]) -> None:
        self.replace(keys)

    def replace(self, keys: Mapping[str, Sequence[str]]) -> None:
        """Know these keys from now on, and no others."""
        self._digests = [(_digest(key), role) for role, of_role in keys.items() for key in of_role]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def roles_of(self, key: str) -> set[str]:
        """The roles of a key; takes the same time whichever key it is, or none."""
        digest = _digest(key)
        matches = [(hmac.compare_digest(digest, known), role) for known, role in self._digests]
        return {role for is_match, role in matches if is_match}


class Authentication:
    """ASGI middleware that lets a request pass only with a key of the role its path needs.

    Sets `caller` in the request's state.

    Raises:
        UnauthenticatedError: Without a key, or with one that isn't known.
        ForbiddenError: With a key of another role.
    """

    def __init__(self, app: ASGIApp, key_ring: KeyRing) -> None:
        self._app = app
        self._key_ring = key_ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key, then go on."""
        if scope["type"] == "http" and (role := role_needed(scope["path"])) is not None:
            caller = self._check(Headers(scope=scope).get("authorization", ""), role)
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _check(self, authorization: str, role: str) -> Caller:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise UnauthenticatedError("send the header Authorization: Bearer KEY")
        roles = self._key_ring.roles_of(key.strip())
        if not roles:
            raise UnauthenticatedError("this key is not known")
        if not roles & {role, ADMIN}:
            raise ForbiddenError(f"this needs a key of the role {role}")
        return Caller(_digest(key.strip()).hex()[:_FINGERPRINT_DIGITS], ADMIN in roles)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
