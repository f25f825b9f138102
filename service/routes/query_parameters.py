"""Refuses query parameters that an operation doesn't have: a typo must not be ignored."""

from typing import Any

from fastapi import Request

from service.errors import InvalidRequestError


async def refuse_unknown(request: Request) -> None:
    """A dependency of documented routes: their document says what there is.

    Raises:
        InvalidRequestError: Naming the parameters.
    """
    if not request.scope["query_string"]:
        return
    paths: dict[str, Any] = request.app.openapi()["paths"]
    operation = paths[request.scope["route"].path_format][request.method.lower()]
    known = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
    if unknown := [name for name in request.query_params if name not in known]:
        message = "There is no such parameter"
        raise InvalidRequestError([(("query", name), message) for name in unknown])
