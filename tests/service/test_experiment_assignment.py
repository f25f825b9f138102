"""Assignment: GrowthBook's public vectors, and what must hold for every definition."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.experiments.assignment import ArmWish, assign, assign_all, find_wished
from service.experiments.definition import Experiment
from service.experiments.hashing import bucket_of, bucket_ranges, choose_arm, namespace_bucket

CASES = json.loads(Path(__file__).with_name("growthbook_cases.json").read_text())
UNITS = [f"user-{number}" for number in range(4000)]
quiet = settings(max_examples=30, deadline=None, derandomize=True)
FRACTIONS = st.integers(0, 100).map(lambda percent: percent / 100)


def experiment(**fields: Any) -> Experiment:
    arms = [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5}]
    defaults = {"name": "x", "arms": arms, "control": "a", "status": "running"}
    return Experiment.model_validate_json(json.dumps({**defaults, **fields}))


def arms_of(definition: Experiment) -> dict[str, str | None]:
    return {unit: assign(definition, unit).arm for unit in UNITS}


@pytest.mark.parametrize(("seed", "unit", "version", "expected"), CASES["hash"])
def test_the_hash_is_growthbooks(seed: str, unit: str, version: int, expected: float) -> None:
    assert bucket_of(seed, unit) == expected


@pytest.mark.parametrize(("name", "arguments", "expected"), CASES["getBucketRange"])
def test_the_ranges_are_growthbooks(name: str, arguments: Any, expected: Any) -> None:
    _, coverage, weights = arguments
    assert bucket_ranges(weights, coverage) == [pytest.approx(pair) for pair in expected]


@pytest.mark.parametrize(("name", "bucket", "ranges", "expected"), CASES["chooseVariation"])
def test_the_choice_is_growthbooks(name: str, bucket: float, ranges: Any, expected: int) -> None:
    assert choose_arm(bucket, ranges) == (None if expected == -1 else expected)


@pytest.mark.parametrize(("name", "unit", "namespace", "expected"), CASES["inNamespace"])
def test_the_namespaces_are_growthbooks(
    name: str, unit: str, namespace: Any, expected: Any
) -> None:
    layer, start, end = namespace
    assert (start <= namespace_bucket(layer, unit) < end) == expected


@quiet
@given(low=FRACTIONS, high=FRACTIONS, weight=FRACTIONS)
def test_raising_the_coverage_moves_nobody(low: float, high: float, weight: float) -> None:
    arms = [{"name": "a", "weight": weight}, {"name": "b", "weight": 1 - weight}]
    low, high = sorted((low, high))
    before = arms_of(experiment(coverage=low, arms=arms))
    after = arms_of(experiment(coverage=high, arms=arms))
    assert all(after[unit] == arm for unit, arm in before.items() if arm is not None)


@quiet
@given(seed=st.text(min_size=1, max_size=20), weight=FRACTIONS, coverage=FRACTIONS)
def test_the_weights_hold(seed: str, weight: float, coverage: float) -> None:
    arms = [{"name": "a", "weight": weight}, {"name": "b", "weight": 1 - weight}]
    definition = experiment(seed="s" + seed, arms=arms, coverage=coverage)
    given_arms = list(arms_of(definition).values())
    for name, share in (("a", coverage * weight), ("b", coverage * (1 - weight))):
        # five standard deviations of 4,000 draws
        assert abs(given_arms.count(name) / len(UNITS) - share) < 5 * 0.5 / len(UNITS) ** 0.5


@quiet
@given(cut=FRACTIONS.filter(lambda cut: 0 < cut < 1), coverages=st.tuples(FRACTIONS, FRACTIONS))
def test_experiments_of_a_layer_share_nobody(cut: float, coverages: tuple[float, float]) -> None:
    both = [
        experiment(name="x", layer="l", layer_range=[0, cut], coverage=coverages[0]),
        experiment(name="y", layer="l", layer_range=[cut, 1], coverage=coverages[1]),
    ]
    for unit in UNITS:
        assert [assign(one, unit).arm for one in both].count(None) >= 1


def test_where_ranges_overlap_the_first_of_a_layer_keeps_its_users() -> None:
    first, second = experiment(name="x", layer="l", coverage=0.5), experiment(name="y", layer="l")
    for unit in UNITS:
        one, other = assign_all([first, second], unit)
        assert one == assign(first, unit)
        assert (one.arm is None) != (other.arm is None)
        assert other.reason == ("bucket" if one.arm is None else "layer")


def test_experiments_without_a_layer_are_independent() -> None:
    pairs = [assign_all([experiment(name="x"), experiment(name="y")], unit) for unit in UNITS]
    same = sum(one.arm == other.arm for one, other in pairs)
    assert abs(same / len(UNITS) - 0.5) < 5 * 0.5 / len(UNITS) ** 0.5


def test_a_holdout_is_the_same_users_for_all_experiments() -> None:
    held = [
        {unit for unit in UNITS if assign(definition, unit).reason == "holdout"}
        for definition in (experiment(holdout=0.1), experiment(name="y", holdout=0.2, seed="z"))
    ]
    assert held[0] < held[1]
    assert abs(len(held[0]) / len(UNITS) - 0.1) < 0.025


def test_a_stopped_experiment_gives_everybody_the_control() -> None:
    stopped = experiment(status="stopped", coverage=0.1, holdout=0.5, forced={"user-1": "b"})
    assert set(arms_of(stopped).values()) == {"a"}
    assert set(arms_of(experiment(status="draft")).values()) == {None}


def test_targeting_forcing_and_sticking() -> None:
    chosen = experiment(include={"user_ids": ["user-1"]}, forced={"user-2": "b"})
    assert {unit for unit, arm in arms_of(chosen).items() if arm} == {"user-1", "user-2"}
    assert assign(chosen, "user-2").reason == "forced"
    closed = {"coverage": 0.0, "sticky": True}
    assert assign(experiment(**closed), "u", "b").arm == "b"
    assert assign(experiment(**closed), "u", "gone").arm is None
    assert assign(experiment(coverage=0.0), "u", "b").arm is None
    assert assign(experiment(**closed, status="stopped"), "u", "b").arm == "a"


def test_a_wish_stands_above_all_but_a_stop_and_concerns_one_experiment() -> None:
    closed = {"coverage": 0.0, "include": {"user_ids": ["nobody"]}, "holdout": 1.0}
    first, second = experiment(name="x", layer="l"), experiment(name="y", layer="l", **closed)
    wish = ArmWish("b", "y")
    arms = {one.experiment: one for one in assign_all([first, second], "u", wish=wish)}
    assert (arms["y"].arm, arms["y"].reason) == ("b", "header")
    assert (arms["x"].arm, arms["x"].reason) == (None, "layer")  # y has taken the user
    assert find_wished([first, second], ArmWish("b")) is first
    stopped = experiment(name="x", status="stopped")
    assert find_wished([stopped, second], ArmWish("b")) is second
    assert find_wished([stopped], ArmWish("c")) is None
    assert assign(stopped, "u", wish=ArmWish("b")).arm == "a"


ARM = {"name": "a", "weight": 1.0}


@pytest.mark.parametrize(
    "fields",
    [
        {"arms": []},
        {"arms": [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.4}]},
        {"arms": [{"name": "a", "weight": 0.5}, {"name": "a", "weight": 0.5}]},
        {"arms": [ARM, {"name": "s", "weight": 0.1, "shadow": True}]},
        {"arms": [{**ARM, "colour": "red"}]},
        {"control": "c"},
        {"coverage": 1.1},
        {"coverage": "1"},
        {"name": "a b"},
        {"forced": {"u": "c"}},
        {"layer_range": [0, 0.5]},
        {"layer": "l", "layer_range": [0.5, 0.5]},
        {"status": "paused"},
    ],
)
def test_a_broken_definition_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        experiment(**fields)
