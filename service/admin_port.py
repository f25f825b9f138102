"""Keeps what needs an admin's key off the public port, where it has a port of its own."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth import ADMIN, role_needed


class AdminPort:
    """ASGI middleware: elsewhere than on its port nothing of an admin's is there.

    Args:
        port: Where it is; everything else is there too.

    Raises:
        HTTPException: 404, as for a path that doesn't exist.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on, or know nothing of such a path. The port is the socket's, whatever headers say."""
        if scope["type"] == "http" and role_needed(scope["path"]) == ADMIN:
            _, port = scope["server"]
            if port != self._port:
                raise HTTPException(404)
        await self._app(scope, receive, send)
