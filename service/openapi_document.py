"""What the OpenAPI document says beyond what the framework knows: keys, limits and links."""

from typing import Any

from fastapi import FastAPI

from service.auth import role_needed
from service.openapi_links import add_links
from service.schemas import LIMITED_BY, Limits


def complete_openapi(app: FastAPI, limits: Limits) -> None:
    """Let an application's document name roles, the limits in force, and where answers lead."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = build()
            app.openapi_schema = document
            _document_keys(document)
            _document_limits(document, limits)
            add_links(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document_keys(document: dict[str, Any]) -> None:
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer"}
    for path, operations in document["paths"].items():
        if (role := role_needed(path)) is not None:
            for operation in operations.values():
                operation["security"] = [{"key": []}]
                operation["x-role"] = role


def _document_limits(node: Any, limits: Limits) -> None:
    """Put each limit's number where a schema names it."""
    if isinstance(node, list):
        for one in node:
            _document_limits(one, limits)
    elif isinstance(node, dict):
        if (setting := node.pop(LIMITED_BY, None)) is not None:
            bound = "maximum" if node.get("type") == "integer" else "maxItems"
            node[bound] = getattr(limits, setting)
        for one in node.values():
            _document_limits(one, limits)
