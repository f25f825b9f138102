"""The page reference/api.md, made of the service's OpenAPI document while the site is built."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from service.app import create_app
from service.settings import Settings

PAGE = "reference/api.md"
METHODS = ("get", "post", "put", "delete")
Document = dict[str, Any]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page."""
    document = create_app(Settings(registry=Path("registry"))).openapi()
    files.append(File.generated(config, PAGE, content="\n".join(describe(document)) + "\n"))
    return files


def describe(document: Document) -> Iterator[str]:
    """Every operation by its tag, then every object that bodies and answers are made of."""
    yield f"# HTTP interface {document['info']['version']}\n"
    yield (
        "Made of the service's own OpenAPI document, which a running service has at "
        "`/openapi.json` and shows at `/docs`. By examples: [calling the service](../api.md).\n"
    )
    tags: dict[str, list[tuple[str, str, Document]]] = {}
    for path, operations in document["paths"].items():
        for method in METHODS:
            if (operation := operations.get(method)) is not None:
                tag = operation.get("tags", ["other"])[0]
                tags.setdefault(tag, []).append((method.upper(), path, operation))
    for tag, operations in tags.items():
        yield f"## {tag.capitalize()}\n"
        for method, path, operation in operations:
            yield from _operation(method, path, operation)
    yield "## Objects\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _object(name, schema)


def _operation(method: str, path: str, operation: Document) -> Iterator[str]:
    yield f"### {method} {path.replace(':path', '')}\n"
    yield operation.get("description", operation.get("summary", "")) + "\n"
    if "x-role" in operation:
        yield f"Role: `{operation['x-role']}`\n"
    if parameters := operation.get("parameters"):
        yield "| parameter | in | type | |\n|---|---|---|---|"
        for one in parameters:
            told = _cell(one.get("description", ""))
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {told} |"
        yield ""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield f"Body: {_type(content['schema'])}\n"
    for status, response in operation["responses"].items():
        for content in response.get("content", {}).values():
            if "schema" in content and status.startswith("2"):
                yield f"{status}: {_type(content['schema'])}\n"


def _object(name: str, schema: Document) -> Iterator[str]:
    yield f"### {name}\n"
    if "description" in schema:
        yield schema["description"] + "\n"
    if "properties" not in schema:
        yield f"{_type(schema)}\n"
        return
    required = schema.get("required", ())
    yield "| field | type | |\n|---|---|---|"
    for field, what in schema["properties"].items():
        mark = "" if field in required else _default(what)
        yield f"| `{field}` | {_type(what)} | {_cell(what.get('description', ''))}{mark} |"
    yield ""


def _default(schema: Document) -> str:
    default = schema.get("default")
    return " Optional." if default is None else f" Default `{default}`."


def _type(schema: Document) -> str:
    """A type in words, with links to the objects that it names."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            kinds = [one for one in schema[union] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(map(_type, kinds)))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("type", "anything")), *bounds])


_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
