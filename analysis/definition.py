"""The experiment's definition: the service's own, with a plan for the analysis."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from analysis.metrics import GUARDRAILS, OUTCOMES
from lsvcr.errors import DataError


class Arm(BaseModel):
    """One variant; `weight` is its share of the units, relative to the others'."""

    model_config = ConfigDict(frozen=True)

    name: str
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Plan(BaseModel):
    """How to analyse, best written down before the experiment starts.

    Attributes:
        alpha: Of the fixed-horizon and of the always-valid intervals (0.05: 95 %).
        decide_by: Which interval the verdict rests on. `fixed_horizon` holds for one look only, at
            `planned_units`; the verdict waits for them.
        planned_units: Of all arms together; where the always-valid interval is tuned to be tight.
        pre_days: How long before the experiment CUPED looks.
        winsorise: The quantile of all units above which per-unit values are cut; None cuts none.
        correction: For the metrics that aren't the primary one.
        margins: By guardrail, the worsening that is tolerated, in the guardrail's own unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    decide_by: Literal["always_valid", "fixed_horizon"] = "always_valid"
    planned_units: Annotated[int, Field(ge=2)] = 5_000
    pre_days: Annotated[float, Field(gt=0, le=365)] = 14.0
    winsorise: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    correction: Literal["holm", "benjamini-hochberg"] = "holm"
    margins: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _know_the_guardrails(self) -> Self:
        unknown = sorted(set(self.margins) - {metric.name for metric in GUARDRAILS})
        if unknown:
            known = ", ".join(metric.name for metric in GUARDRAILS)
            raise ValueError(f"margins: no guardrail {unknown[0]!r}; there are {known}")
        return self


class Definition(BaseModel):
    """An experiment. Fields that matter to the assignment alone are passed over."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(min_length=1)]
    arms: Annotated[tuple[Arm, ...], Field(min_length=2)]
    control: str
    primary_metric: str = OUTCOMES[0].name
    analysis: Plan = Plan()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"arms: two of the same name in {names}")
        if self.control not in names:
            raise ValueError(f"control: {self.control!r} is none of the arms {names}")
        known = [metric.name for metric in OUTCOMES]
        if self.primary_metric not in known:
            raise ValueError(f"primary_metric: {self.primary_metric!r} is none of {known}")
        return self

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms that are compared with the control."""
        return tuple(arm.name for arm in self.arms if arm.name != self.control)


def load_definition(path: Path) -> Definition:
    """Read a JSON file.

    Raises:
        DataError: If it can't be read or doesn't fit; names the field.
    """
    try:
        return Definition.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {place + ': ' if place else ''}{first['msg']}") from error
