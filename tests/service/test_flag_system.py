"""A flag system decides the arm: the documented way, with OpenFeature's own in-memory provider."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from app_client import make_settings, serve
from experiment_apps import FIRST, SECOND, definition, put, recommend
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from service.embedded_store import EmbeddedStore

ARMS = {"anna": "treatment", "ben": "control", "cora": ""}


def draw(flag: InMemoryFlag[str], context: EvaluationContext) -> FlagResolutionDetails[str]:
    return FlagResolutionDetails(ARMS[str(context.targeting_key)])


@pytest.fixture
def arm_headers() -> Callable[[str, str], dict[str, str]]:
    """The function of docs/experiments.md, with a flag that knows three users."""
    flag = InMemoryFlag("none", {"none": ""}, context_evaluator=draw)
    api.set_provider(InMemoryProvider({"gateway": flag}))
    blocks = re.findall(r"```python\n(.*?)```", Path("docs/experiments.md").read_text(), re.DOTALL)
    [block] = [block for block in blocks if "openfeature" in block]
    names: dict[str, Callable[[str, str], dict[str, str]]] = {}
    exec(block, names)
    return names["arm_headers"]


def test_the_flag_systems_arm_is_the_one_that_answers(
    tiny_master: Path,
    store_folder: Path,
    arm_headers: Callable[[str, str], dict[str, str]],
) -> None:
    with EmbeddedStore(store_folder) as embedded:
        settings = make_settings(tiny_master, embedded.url, trust_arm_header=True)
        with serve(settings) as client:
            put(client, definition("gateway", coverage=0.0))
            for user, arm in ARMS.items():
                response = recommend(client, user, headers=arm_headers("gateway", user))
                assert response.headers.get("X-Arm", "") == arm
                version = SECOND if arm == "treatment" else FIRST
                assert response.headers["X-Model-Version"] == version
            [shown] = client.get("/users/anna/export").json()["exposures"]
            assert shown["experiments"] == [
                {"experiment": "gateway", "arm": "treatment", "reason": "header"}
            ]
