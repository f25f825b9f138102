"""Sequences of requests: what one answer names the next one asks for, with the keys of every role.

The OpenAPI document says which answers lead where (`service/openapi_links.py`).
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from effort import TRIED, effort, takes_time
from hypothesis import Phase, settings
from hypothesis.errors import FlakyStrategyDefinition
from keyed_service import KEYS, keyed_service
from schemathesis import Case, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    ensure_resource_availability,
    negative_data_rejection,
    positive_data_acceptance,
    use_after_free,
)
from tiny_bundle_builder import TINY_VERSIONS

from service.answer_schemas import ProblemAnswer
from service.auth import role_needed
from service.openapi_links import LINKS

CALLERS = ("admin", "admin", "admin", "recommend", "admin", "ingest", "admin", None)
"""Who sends one request after the other: most go on, some may not."""
RUNS = 40
REPORT_S = 120
"""A report takes seconds, and this machine may be busy."""
NOT_CHECKED = [positive_data_acceptance, negative_data_rejection]  # as with single requests
NOT_AFTER_DELETING = [use_after_free, ensure_resource_availability]
"""An unknown or erased user has an empty history, and who deleted an experiment stays known."""
EXPERIMENT = {
    "name": "linked",
    "arms": [
        {"name": "a", "weight": 0.5, "model_version": TINY_VERSIONS[0]},
        {"name": "b", "weight": 0.5, "model_version": TINY_VERSIONS[1]},
    ],
    "control": "a",
    "status": "running",
}
EVENTS = {
    "events": [
        {
            "event_id": "linked",
            "user_id": "walker",
            "type": "video_watch",
            "video_id": "v3",
            "timestamp": 1_790_000_000_000,
        }
    ]
}
BEGINNINGS = {
    "an experiment": ("/admin/experiments/{name}", "put", {"path.name": "linked"}, EXPERIMENT),
    "events": ("/events", "post", {}, EVENTS),
    "another model": (
        "/admin/models/{version}/activate",
        "post",
        {"path.version": TINY_VERSIONS[1]},
        None,
    ),
}
"""Requests that nobody would guess and that something comes of: they follow a list of models."""


@pytest.fixture(scope="module")
def url(tiny_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that runs, with a key for each role."""
    with keyed_service(tiny_master, tmp_path_factory.mktemp("walked")) as url:
        yield url


def document_of(url: str) -> dict[str, Any]:
    """The service's, with more links, to the requests that sequences begin with."""
    document: dict[str, Any] = requests.get(f"{url}/openapi.json", timeout=30).json()
    links = document["paths"]["/admin/models"]["get"]["responses"]["200"]["links"]
    for name, (path, method, parameters, body) in BEGINNINGS.items():
        operation_id = document["paths"][path][method]["operationId"]
        links[name] = {"operationId": operation_id, "parameters": parameters}
        if body is not None:
            links[name]["requestBody"] = body
    return document


def role_of(headers: Mapping[str, str]) -> str | None:
    """Whose key a request was sent with."""
    sent = headers.get("Authorization", "")
    return next((role for role, key in KEYS.items() if sent == f"Bearer {key}"), None)


def reached(schema: Any) -> list[Any]:
    """The operations that links lead to."""
    targets = {target for links in LINKS.values() for target, _ in links.values()}
    operations = [result.ok() for result in schema.get_all_operations()]
    return [one for one in operations if one.label in targets]


def test_no_sequence_of_requests_makes_us_fail(url: str) -> None:
    schema = openapi.from_dict(document_of(url))
    schema.config.update(base_url=url)
    answered: Counter[str] = Counter()

    class Walk(schema.as_state_machine()):  # type: ignore[misc] # made at runtime
        def setup(self) -> None:
            self.turns = itertools.cycle(CALLERS)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            role = next(self.turns)
            case.headers.pop("Authorization", None)
            headers = {"Authorization": f"Bearer {KEYS[role]}"} if role else {}
            return {"headers": headers, "timeout": REPORT_S}

        def validate_response(self, response: Any, case: Case, **options: Any) -> None:
            TRIED["requests, in sequences"] += 1
            needed = role_needed(case.operation.path)
            role = role_of(response.request.headers)  # a key may be left out on purpose
            if needed is not None and role not in (needed, "admin"):
                assert response.status_code == (403 if role else 401)
            elif response.status_code < 300:
                answered[case.operation.label] += 1
            excluded = [*NOT_CHECKED]
            if response.status_code >= 400:
                problem = ProblemAnswer.model_validate_json(response.content)
                if problem.type == "urn:lsvcr:problem:overloaded":
                    excluded.append(not_a_server_error)  # one report at a time is made
            if case.operation.path.startswith("/users") or case.operation.path.endswith("/audit"):
                excluded += NOT_AFTER_DELETING
            case.validate_response(
                response,
                excluded_checks=excluded,
                recorder=self.recorder,
                transport_kwargs=options,
            )

    walking = settings(effort(sample=20, fuzz=25), phases=[Phase.generate], stateful_step_count=8)
    for _ in range(RUNS if takes_time() else 1):
        # The same draws lead elsewhere, as the service remembers: that ends a run, no more.
        with contextlib.suppress(FlakyStrategyDefinition):
            Walk.run(settings=walking)
    linked = {operation.label for operation in reached(schema)}
    if takes_time():
        assert linked - answered.keys() == set()
    assert len(answered) > len(linked) // 4
