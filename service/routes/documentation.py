"""`/docs`: the OpenAPI document as one plain page, without scripts or anything from elsewhere."""

from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_HEADERS = {  # nothing but its own style; nobody may frame it
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code{background:#8882;padding:.1em .3em;border-radius:.2em} td,th{text-align:left;padding:.1em .8em}
details{margin:.6rem 0;border-left:3px solid #8885;padding-left:.8rem} summary{cursor:pointer}
:root{color-scheme:light dark}
"""


@router.get("/docs")
async def document(request: Request) -> HTMLResponse:
    """All operations with the fields of their bodies."""
    openapi: dict[str, Any] = request.app.openapi()
    schemas: dict[str, Any] = openapi["components"]["schemas"]
    operations = [
        _operation(method, path, operation, schemas)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    info = openapi["info"]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info['summary'])} For tools: <a href=openapi.json>openapi.json</a>.</p>"
        f"{''.join(operations)}"
        f"<h2>Objects</h2>{''.join(_schema(name, schema) for name, schema in schemas.items())}"
    )
    return HTMLResponse(page, headers=_HEADERS)


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    role = f" Needs the role <code>{operation['x-role']}</code>." if "x-role" in operation else ""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    answer = operation["responses"]["200" if "200" in operation["responses"] else "204"]
    answer_schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    fields = _fields(schemas[_name(body["schema"])]) if body else ""
    answers = f"<p>Answers {_type(answer_schema)}.</p>" if answer_schema else ""
    return (
        f"<details><summary><code>{method.upper()} {escape(path)}</code> "
        f"{escape(operation.get('description', ''))}{role}</summary>{fields}{answers}</details>"
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    description = escape(schema.get("description", ""))
    return (
        f"<details id={escape(name)}><summary><code>{escape(name)}</code> {description}</summary>"
        f"{_fields(schema)}</details>"
    )


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' *' if name in required else ''}"
        f"<td>{_type(field)}<td>{escape(field.get('description', ''))}"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<table><tr><th>field (* needed)<th>type<th>meaning{''.join(rows)}</table>"


def _type(field: dict[str, Any]) -> str:
    """A field's type in words, with links to the objects it may be."""
    if "$ref" in field:
        return f"<a href='#{escape(_name(field))}'>{escape(_name(field))}</a>"
    for choice in ("anyOf", "oneOf"):
        if choice in field:
            return " or ".join(_type(option) for option in field[choice])
    if "enum" in field:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    default = f" = {escape(str(field['default']))}" if field.get("default") is not None else ""
    return escape(str(field.get("const", field.get("type", "any")))) + default


def _name(reference: dict[str, Any]) -> str:
    name: str = reference["$ref"].rsplit("/", 1)[-1]
    return name
