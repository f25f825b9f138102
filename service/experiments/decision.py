"""What a unit's arms mean for one answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.experiments.assignment import Assignment
from service.experiments.definition import Arm, Experiment, Overrides

_NO_OVERRIDES = Overrides()


@dataclass(frozen=True, slots=True)
class Decision:
    """How to answer a unit, and what to write down about it.

    Attributes:
        version: The bundle to ask; None for the current one.
        label: Experiment and arm that the answer names.
        exposed: Assignments to running experiments, to be logged with the answer.
        shadows: Arms to be computed and logged beside it, by experiment.
    """

    version: str | None = None
    overrides: Overrides = _NO_OVERRIDES
    label: tuple[str, str] | None = None
    exposed: tuple[Assignment, ...] = ()
    shadows: tuple[tuple[str, Arm], ...] = ()


NO_EXPERIMENT = Decision()


def decide(experiments: Mapping[str, Experiment], assignments: Sequence[Assignment]) -> Decision:
    """Join the arms of one unit.

    Running experiments that can share a unit never choose the same thing (`find_conflict`), so
    their arms can simply be joined. What is left open the controls of stopped experiments decide.

    Args:
        experiments: By name.
        assignments: In their order of precedence.
    """
    with_arm = [(one, experiments[one.experiment]) for one in assignments if one.arm is not None]
    running = [pair for pair in with_arm if pair[1].status == "running"]
    deciding = [*running, *(pair for pair in with_arm if pair[1].status != "running")]
    if not deciding:
        return NO_EXPERIMENT
    version: str | None = None
    overrides: dict[str, object] = {}
    for assignment, experiment in deciding:
        arm = experiment.arm(str(assignment.arm))
        version = version or arm.model_version
        for name, value in arm.overrides:
            if value is not None:
                overrides.setdefault(name, value)
    first = deciding[0][0]
    return Decision(
        version=version,
        overrides=_NO_OVERRIDES.model_copy(update=overrides) if overrides else _NO_OVERRIDES,
        label=(first.experiment, str(first.arm)),
        exposed=tuple(one for one, _ in running),
        shadows=tuple(
            (experiment.name, arm)
            for _, experiment in running
            for arm in experiment.arms
            if arm.shadow
        ),
    )


def find_conflict(experiment: Experiment, others: Sequence[Experiment]) -> str | None:
    """Say with which running experiment a new one would quarrel about a unit, and why."""
    for other in others:
        if other.name == experiment.name or other.status != "running":
            continue
        if experiment.layer is not None and experiment.layer == other.layer:
            continue
        if both := sorted(experiment.chosen & other.chosen):
            return (
                f"{other.name!r} is running and chooses {both[0]}, too, for the same users: "
                "put both into one layer"
            )
    return None
