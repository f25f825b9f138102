"""Query parameters are taken as strictly as bodies: a typo must not be ignored, or read as another.

The framework takes names that nobody knows, and reads `1_0` as 10 and `3.0` as a whole number.
"""

import re
from typing import Annotated, Any

from fastapi import Request
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from service.errors import InvalidRequestError


def _written_as(form: str, what: str) -> BeforeValidator:
    """Refuse text of another form, before the framework reads it as a number."""
    pattern = re.compile(form)

    def check(value: object) -> object:
        if isinstance(value, str) and not pattern.fullmatch(value):
            raise PydanticCustomError("number", f"Input should be {what}")
        return value

    return BeforeValidator(check)


Whole = Annotated[int, _written_as(r"-?[0-9]+", "a whole number")]
Decimal = Annotated[float, _written_as(r"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?", "a number")]


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
