"""Guardrails: what a window of answers comes to, and a stop by itself on the real application."""

from pathlib import Path
from typing import cast

import pytest
from app_client import make_settings, serve
from experiment_apps import assignments, definition, put, recommend, units_of, wait_until
from fastapi import FastAPI

from service.embedded_store import EmbeddedStore
from service.engine.queries import Answer
from service.errors import OverloadedError, UnknownVideoError
from service.experiments.definition import Guardrails
from service.experiments.guardrail_watch import ArmWindow

LIMITS = Guardrails(answers=10, error_rate=0.2, empty_rate=0.5, mean_latency_ms=20.0)


def window(*answers: tuple[bool, bool, float]) -> ArmWindow:
    made = ArmWindow(10)
    for failed, empty, latency_ms in answers:
        made.add(failed=failed, empty=empty, latency_ms=latency_ms)
    return made


GOOD, FAILED, EMPTY, SLOW = (
    (False, False, 10.0),
    (True, False, 10.0),
    (False, True, 10.0),
    (False, False, 200.0),
)


@pytest.mark.parametrize(
    ("answers", "broken"),
    [
        ([GOOD] * 10, []),
        ([FAILED] * 9, []),  # too few to say anything
        ([FAILED] * 2 + [GOOD] * 8, []),  # 0.2 is allowed
        ([FAILED] * 3 + [GOOD] * 7, ["error_rate"]),
        ([FAILED] * 3 + [GOOD] * 10, []),  # the failures are forgotten
        ([EMPTY] * 6 + [GOOD] * 4, ["empty_rate"]),
        ([SLOW] + [GOOD] * 9, ["mean_latency_ms"]),  # 29 ms on average
        ([FAILED] * 3 + [EMPTY] * 7, ["error_rate", "empty_rate"]),
    ],
)
def test_a_limit_is_broken_by_the_newest_answers(
    answers: list[tuple[bool, bool, float]], broken: list[str]
) -> None:
    assert list(window(*answers).broken(LIMITS)) == broken


def test_a_broken_guardrail_stops_the_experiment_for_all_and_says_why(
    tiny_master: Path, store_folder: Path
) -> None:
    with EmbeddedStore(store_folder) as embedded:
        settings = make_settings(tiny_master, embedded.url)
        with serve(settings) as client, serve(settings) as other:
            put(client, definition(guardrails={"answers": 10, "mean_latency_ms": 0.001}))
            treated = units_of(client, "x", "treatment", 1)[0]
            control = units_of(client, "x", "control", 1)[0]
            for _ in range(10):
                recommend(client, control)
            for _ in range(12):
                recommend(client, treated)
            assert recommend(client, treated).headers["X-Arm"] == "treatment"  # control is as slow

            put(client, definition(guardrails={"answers": 10, "mean_latency_ms": 0.002}))
            for _ in range(9):
                recommend(client, treated)
            assert recommend(client, treated).headers["X-Arm"] == "treatment"
            wait_until(
                lambda: assignments(other, treated).get("x") == ("control", "stopped"),
                "the stop reaches the other replica",
            )
            assert recommend(client, treated).headers["X-Arm"] == "control"
            assert "lsvcr_guardrail_stops_total 1.0" in client.get("/metrics").text
            entry = client.get("/admin/experiments/x/audit").json()["entries"][0]
            assert (entry["action"], entry["who"]) == ("stop", "guardrail")
            assert entry["why"].startswith("arm 'treatment': mean_latency_ms ")
            assert entry["why"].endswith(" is above 0.002 in 10 answers")


def test_failing_answers_stop_the_experiment_and_a_callers_mistakes_do_not(
    tiny_master: Path, store_folder: Path
) -> None:
    async def fail(error: Exception) -> Answer:
        raise error

    with (
        EmbeddedStore(store_folder) as embedded,
        serve(make_settings(tiny_master, embedded.url)) as client,
    ):
        put(client, definition(guardrails={"answers": 10, "error_rate": 0.5}))
        treated = units_of(client, "x", "treatment", 1)[0]
        state = cast(FastAPI, client.app).state
        exposed = state.experiments.decide(treated, {}).exposed

        def answer_with(error: Exception) -> None:
            assert client.portal is not None
            with pytest.raises(type(error)):
                client.portal.call(state.guardrails.observe, exposed, fail(error))

        for _ in range(20):
            answer_with(UnknownVideoError("no such video"))
        assert assignments(client, treated)["x"] == ("treatment", "bucket")
        for _ in range(10):
            answer_with(OverloadedError("too much"))
        wait_until(lambda: assignments(client, treated)["x"] == ("control", "stopped"), "it stops")
        why = client.get("/admin/experiments/x/audit").json()["entries"][0]["why"]
        assert why == "arm 'treatment': error_rate 1 is above 0.5 in 10 answers"
