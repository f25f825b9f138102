"""The client's requests and answers against the service's own description of them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from lsvcr_client.experiments import Experiment
from lsvcr_client.requests import PutExperiment, RecommendBatch, Request
from service.app import create_app
from service.settings import Settings

REQUESTS: list[type[Request[Any]]] = Request.__subclasses__()
TEXT_ONLY = {("get", "/metrics")}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    openapi: dict[str, Any] = create_app(Settings(registry=Path("none"))).openapi()
    return openapi


def operation(document: dict[str, Any], request: type[Request[Any]]) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][request.path][request.method.lower()]
    return found


def json_schema(content: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = content["content"]["application/json"]["schema"]
    return schema


def outline(schema: dict[str, Any], root: dict[str, Any], *, needed: bool) -> object:
    """A schema's fields and types alone, in a form that two generators agree on."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return outline(target, root, needed=needed)
    if "properties" in schema:  # beside them anyOf is a rule between fields
        required = set(schema.get("required", ())) if needed else set()
        return {
            name + ("*" if name in required else ""): outline(field, root, needed=needed)
            for name, field in sorted(schema["properties"].items())
        }
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        kinds = [outline(choice, root, needed=needed) for choice in choices]
        return kinds[0] if len(kinds) == 1 else sorted(map(repr, kinds))
    if "enum" in schema or "const" in schema:
        if not needed:
            return "string"  # of answers, so that a new value breaks no older client
        return sorted(map(repr, schema.get("enum", [schema.get("const")])))
    if schema.get("type") == "array":
        entries = schema.get("prefixItems") or [schema.get("items", {})]
        return ["list", *(outline(entry, root, needed=needed) for entry in entries)]
    if schema.get("type") == "object":
        values = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
        return {"": outline(values[0] if isinstance(values[0], dict) else {}, root, needed=needed)}
    return schema.get("type", "any")


def of_client(kind: Any, *, needed: bool) -> object:
    schema = msgspec.json.schema(kind)
    return outline(schema, schema, needed=needed)


def test_every_operation_has_its_request(document: dict[str, Any]) -> None:
    there = {(method, path) for path, of in document["paths"].items() for method in of}
    ours = {(request.method.lower(), request.path) for request in REQUESTS}
    assert ours == there - TEXT_ONLY, "lsvcr_client/requests.py: one class for each operation"


@pytest.mark.parametrize("request_type", [one for one in REQUESTS if one.has_body])
def test_bodies_have_the_services_fields(
    document: dict[str, Any], request_type: type[Request[Any]]
) -> None:
    body = json_schema(operation(document, request_type)["requestBody"])
    theirs = outline(body, document, needed=True)
    if request_type is RecommendBatch:  # its entries are the requests of the other tests
        assert isinstance(theirs, dict) and list(theirs) == ["requests*"]
        return
    kind = Experiment if request_type is PutExperiment else request_type
    assert of_client(kind, needed=True) == theirs


@pytest.mark.parametrize("request_type", [one for one in REQUESTS if not one.has_body])
def test_parameters_have_the_services_names(
    document: dict[str, Any], request_type: type[Request[Any]]
) -> None:
    parameters = operation(document, request_type).get("parameters", [])
    required = {one["name"]: one["required"] for one in parameters}
    ours = {one.encode_name: one.required for one in msgspec.structs.fields(request_type)}
    assert ours == required


@pytest.mark.parametrize("request_type", REQUESTS)
def test_answers_have_the_services_fields(
    document: dict[str, Any], request_type: type[Request[Any]]
) -> None:
    responses = operation(document, request_type)["responses"]
    if request_type.answer_type is None:
        assert "204" in responses
        return
    answer = json_schema(responses["200"])
    theirs = outline(answer, document, needed=False)
    if request_type is RecommendBatch:
        assert isinstance(theirs, dict) and list(theirs) == ["results"]
        return
    assert of_client(request_type.answer_type, needed=False) == theirs
