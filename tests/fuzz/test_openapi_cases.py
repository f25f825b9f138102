"""Requests drawn from the OpenAPI document, right and wrong ones, with the keys of every role."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from effort import TRIED, effort
from hypothesis import given
from keyed_service import KEYS, keyed_service
from schemathesis import Case, GenerationMode, openapi
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from service.answer_schemas import ProblemAnswer
from service.auth import role_needed

MODES = {mode.name.lower(): mode for mode in GenerationMode}
NOT_CHECKED = [
    # 5.0 is an integer to JSON Schema and none to us; weights that sum to 1 can't be written down
    positive_data_acceptance,
    # a bad event or request of a batch is refused by itself, within an answer of 200
    negative_data_rejection,
]


@pytest.fixture(scope="module")
def schema(tiny_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of a service that runs, with a key for each role."""
    folder = tmp_path_factory.mktemp("fuzzed")
    with keyed_service(tiny_master, folder, "--deadline-ms", "30000") as url:
        yield openapi.from_url(f"{url}/openapi.json")


def operations(schema: Any) -> list[Any]:
    return [result.ok() for result in schema.get_all_operations()]


@pytest.mark.parametrize("mode", sorted(MODES))
def test_no_request_of_an_admin_makes_us_fail(schema: Any, mode: str) -> None:
    for operation in operations(schema):
        try_out(operation, MODES[mode], "admin", sample=3, fuzz=180)


@pytest.mark.parametrize("role", ["recommend", "ingest", None])
def test_no_request_of_another_role_gets_further_than_it_may(schema: Any, role: str | None) -> None:
    for operation in operations(schema):
        try_out(operation, MODES["positive"], role, sample=1, fuzz=40)


def try_out(
    operation: Any, mode: GenerationMode, role: str | None, *, sample: int, fuzz: int
) -> None:
    headers = {"Authorization": f"Bearer {KEYS[role]}"} if role else {}
    needed = role_needed(operation.path.replace("{", "x").replace("}", ""))
    if mode is GenerationMode.NEGATIVE and operation.path.startswith(("/health", "/metrics")):
        return  # nothing in it that could be wrong

    @effort(sample=sample, fuzz=fuzz)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        case.headers.pop("Authorization", None)
        response = case.call(headers=headers)
        TRIED[f"requests, {mode.name.lower()}, key of {role}"] += 1
        if needed is not None and role not in (needed, "admin"):
            assert response.status_code == (403 if role else 401)
        if response.status_code >= 400:
            ProblemAnswer.model_validate_json(response.content)
        case.validate_response(response, excluded_checks=NOT_CHECKED, headers=headers)

    check()
