"""Who gets which arm: a pure function of the definitions and the unit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.experiments.definition import Experiment
from service.experiments.hashing import bucket_of, bucket_ranges, choose_arm, namespace_bucket

HOLDOUT_SEED = "holdout"
"""One for all experiments: a holdout's users see none of them."""

Reason = Literal[
    "bucket", "forced", "sticky", "header", "stopped",  # with an arm
    "draft", "not_included", "holdout", "layer", "coverage",  # without
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an experiment says of a unit.

    Attributes:
        arm: None where the unit isn't in it; `reason` tells why.
        bucket: In [0, 1), four decimals.
    """

    experiment: str
    arm: str | None
    bucket: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class ArmWish:
    """An arm that a request asks for by header, and the experiment where it says that, too.

    Attributes:
        reason: `header` where a gateway drew the arm, `forced` where an admin wants to see it.
    """

    arm: str
    experiment: str | None = None
    reason: Literal["header", "forced"] = "header"


def assign(
    experiment: Experiment,
    unit: str,
    sticky_arm: str | None = None,
    *,
    wish: ArmWish | None = None,
) -> Assignment:
    """Find a unit's arm in one experiment.

    Args:
        sticky_arm: What the unit had before, where the experiment is sticky.
        wish: What a gateway or an admin asks for; stands above all but a stop.
    """
    bucket = bucket_of(experiment.seed or experiment.name, unit)
    arm, reason = _choose(experiment, unit, bucket, sticky_arm, wish)
    return Assignment(experiment.name, arm, bucket, reason)


def assign_all(
    experiments: Sequence[Experiment],
    unit: str,
    sticky: Mapping[str, str] | None = None,
    wish: ArmWish | None = None,
) -> list[Assignment]:
    """Find a unit's arms in all experiments; in a layer the first that has one keeps it.

    Args:
        experiments: In their order of precedence.
        sticky: Arms the unit had before, by experiment.
        wish: Concerns one experiment (`find_wished`), which then comes first.
    """
    wished = None if wish is None else find_wished(experiments, wish)
    assignments, taken = [], set()
    for experiment in sorted(experiments, key=lambda one: one is not wished):
        assignment = assign(
            experiment,
            unit,
            (sticky or {}).get(experiment.name),
            wish=wish if experiment is wished else None,
        )
        if experiment.layer is not None and experiment.status == "running":
            if assignment.arm is not None and experiment.layer in taken:
                assignment = Assignment(experiment.name, None, assignment.bucket, "layer")
            elif assignment.arm is not None:
                taken.add(experiment.layer)
        assignments.append(assignment)
    return assignments


def find_wished(experiments: Iterable[Experiment], wish: ArmWish) -> Experiment | None:
    """The experiment that a wish concerns: the first that has such an arm, running ones first."""
    having = [
        experiment
        for experiment in experiments
        if wish.experiment in (None, experiment.name)
        and experiment.status != "draft"
        and wish.arm in experiment.answering_arms
    ]
    return min(having, key=lambda one: one.status != "running", default=None)


def _choose(
    experiment: Experiment,
    unit: str,
    bucket: float,
    sticky_arm: str | None,
    wish: ArmWish | None,
) -> tuple[str | None, Reason]:
    if experiment.status == "draft":
        return None, "draft"
    if experiment.status == "stopped":
        return experiment.control, "stopped"
    if wish is not None:
        return wish.arm, wish.reason
    if (forced := experiment.forced.get(unit)) is not None:
        return forced, "forced"
    if experiment.include.user_ids and unit not in experiment.include.users:
        return None, "not_included"
    if experiment.holdout and bucket_of(HOLDOUT_SEED, unit) < experiment.holdout:
        return None, "holdout"
    if experiment.layer is not None:
        start, end = experiment.layer_range
        if not start <= namespace_bucket(experiment.layer, unit) < end:
            return None, "layer"
    if experiment.sticky and sticky_arm in experiment.answering_arms:
        return sticky_arm, "sticky"
    ranges = bucket_ranges([arm.weight for arm in experiment.arms], experiment.coverage)
    position = choose_arm(bucket, ranges)
    return (None, "coverage") if position is None else (experiment.arms[position].name, "bucket")
