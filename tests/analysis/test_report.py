import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from experiment_tables import (
    DAY_MS,
    START_MS,
    definition_of,
    event,
    exposure,
    tables_of,
    write_tables,
)

from analysis.__main__ import main
from analysis.definition import Plan
from analysis.page import build_page
from analysis.report import Report, build_report
from analysis.sample_ratio import check_sample_ratio
from analysis.shown_items import describe_shown_items
from analysis.verdict import Decision

PLAN = Plan()
Rows = list[dict[str, Any]]


def invent(
    *, lift: float = 0.0, units: int = 600, control_share: float = 0.5, **of_b: Any
) -> tuple[Rows, Rows]:
    """An answer and an event a unit, over four days; arm b's answers changed by `of_b`."""
    rng = np.random.default_rng(3)
    exposures, events = [], []
    for number in range(units):
        arm = "a" if rng.random() < control_share else "b"
        at = int(rng.integers(4 * DAY_MS))
        changes = of_b if arm == "b" else {}
        exposures.append(
            exposure(f"r{number}", f"u{number}", arm, timestamp=START_MS + at, **changes)
        )
        watched = int(rng.gamma(4, 1000) * (1 + lift * (arm == "b")))
        events.append(event(f"u{number}", at=at + 1, watch_time_ms=watched))
    return exposures, events


def report_of(rows: tuple[Rows, Rows], plan: Plan = PLAN, **changes: Any) -> Report:
    definition = definition_of(**changes)
    return build_report(tables_of(*rows, definition), definition, plan)


def decision(report: Report) -> Decision:
    (verdict,) = report.verdicts
    return verdict.decision


def test_the_verdict_follows_the_figures() -> None:
    assert decision(report_of(invent())) == "undecided"
    assert decision(report_of(invent(lift=0.5))) == "better"
    assert decision(report_of(invent(lift=-0.4))) == "worse"
    assert decision(report_of(invent(units=40))) == "too_early"
    assert decision(report_of(invent(units=1))) == "too_early"


def test_a_better_arm_that_breaks_a_guardrail_does_harm() -> None:
    report = report_of(invent(lift=0.5, latency_ms=40.0))
    assert decision(report) == "harmful"
    assert "latency_ms" in report.verdicts[0].text
    tolerant = report_of(invent(lift=0.5, latency_ms=40.0), Plan(margins={"latency_ms": 50}))
    assert decision(tolerant) == "better"
    assert decision(report_of(invent(lift=0.5, video_ids=[]))) == "harmful"


def test_a_broken_sample_ratio_is_not_to_be_trusted() -> None:
    report = report_of(invent(lift=0.5, control_share=0.35))
    assert decision(report) == "do_not_trust"
    assert "Do not trust" in build_page(report)
    arms = [{"name": "a", "weight": 0.35}, {"name": "b", "weight": 0.65}]
    assert decision(report_of(invent(lift=0.5, control_share=0.35), arms=arms)) == "better"


def test_the_sample_ratio_by_hand() -> None:
    # (60 - 50)² / 50 · 2 = 4, one degree of freedom: p = 0.0455
    ratio = check_sample_ratio({"a": 60, "b": 40}, {"a": 1, "b": 1})
    assert ratio.p_value == pytest.approx(0.0455, abs=1e-4)
    assert not ratio.is_off
    assert check_sample_ratio({"a": 600, "b": 400}, {"a": 1, "b": 1}).is_off
    assert check_sample_ratio({"a": 600}, {"a": 1, "b": 1}).is_off  # an arm without a unit


def test_a_fixed_horizon_waits_for_its_planned_size() -> None:
    rows = invent(lift=0.5)
    waits, decides = (Plan(decide_by="fixed_horizon", planned_units=n) for n in (601, 600))
    assert decision(report_of(rows, waits)) == "too_early"
    assert decision(report_of(rows, decides)) == "better"


def test_coverage_and_diversity_by_hand() -> None:
    shown = pl.DataFrame(
        {"arm": ["a", "a", "b"], "video_ids": [["v1", "v2"], ["v3", "v4"], ["v1", "v1"]]}
    )
    found = describe_shown_items(shown, "video_ids")
    # two draws of four different items are two; an item of entropy log 4 or of none
    assert found["a"].coverage == pytest.approx(2)
    assert found["a"].diversity == pytest.approx(4)
    assert (found["b"].coverage, found["b"].diversity) == pytest.approx((1, 1))
    assert (
        describe_shown_items(
            shown.with_columns(video_ids=pl.lit([], pl.List(pl.String))), "video_ids"
        )
        == {}
    )


def test_the_commands_write_a_page_and_tell_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tables(tmp_path / "log", *invent(lift=0.5))
    definition = {
        "name": "x", "seed": "s", "layer": "l", "status": "running", "control": "a",
        "arms": [{"name": "a", "weight": 1, "model_version": "m"}, {"name": "b", "weight": 1}],
    }  # fmt: skip
    file = tmp_path / "definition.json"
    file.write_text(json.dumps(definition))
    told = ["report", "--exposures", str(tmp_path / "log"), "--definition", str(file)]
    page = tmp_path / "report.html"
    assert main([*told, "--out", str(page)]) == 0
    assert "b is better than a" in capsys.readouterr().out
    assert "<svg" in page.read_text() and "http" not in page.read_text()
    assert main([*told, "--json"]) == 0
    assert Report.model_validate_json(capsys.readouterr().out).verdicts[0].decision == "better"
    plan = tmp_path / "plan.json"
    plan.write_text('{"alhpa": 0.01}')
    assert main([*told, "--plan", str(plan)]) == 1
    assert "plan.json: alhpa: Extra inputs" in capsys.readouterr().err
    file.write_text(json.dumps({**definition, "control": "c"}))
    assert main(told) == 1
    assert "control: 'c' is none of the arms" in capsys.readouterr().err
    assert main([*told[:2], str(tmp_path), *told[3:]]) == 1


def test_names_are_escaped() -> None:
    arms = [{"name": "a", "weight": 1}, {"name": "<b>", "weight": 1}]
    rows = invent()
    exposures = [{**row, "arm": "<b>" if row["arm"] == "b" else "a"} for row in rows[0]]
    assert "<b>: " not in build_page(report_of((exposures, rows[1]), arms=arms))


def test_power_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    # 2 · 2 · (1.96 + 0.84)² · sd² / difference², in both arms: 4 · 7.849 · 1 / 0.01
    told = ["power", "--mean", "1", "--sd", "1", "--lift", "0.1", "--units-per-day", "500"]
    assert main(told) == 0
    assert "3,140 units in both arms together, 7 days" in capsys.readouterr().out
