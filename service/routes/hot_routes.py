"""The busiest routes, found by their path before the framework tries all of them in turn.

The framework's own way costs more than everything else that HTTP takes (docs/decisions/0008). What
it would add here is not used: these routes read their bodies themselves, and errors become problem
documents in `request_context.py`.
"""

from collections.abc import Iterable

from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.routes.json_route import JsonRoute


def routes_by_path(routes: Iterable[BaseRoute]) -> dict[str, JsonRoute]:
    """Those of some routes that read a JSON body and have no names in their path."""
    return {
        route.path: route
        for route in routes
        if isinstance(route, JsonRoute) and route.reads_body and not route.param_convertors
    }


class HotRoutes:
    """The innermost ASGI middleware, so that keys, limits, ids and deadlines hold as elsewhere.

    Args:
        routes: Of these, those by `routes_by_path`.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._by_path = routes_by_path(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request to one of the routes, or leave it to the framework."""
        route = None
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self._by_path.get(scope["path"])
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        scope["path_params"] = {}
        response = await route.answer(Request(scope, receive, send))
        await response(scope, receive, send)
