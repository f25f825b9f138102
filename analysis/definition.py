"""What an experiment is, as the service defines it, and the plan for its analysis."""

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from analysis.metrics import GUARDRAILS, OUTCOMES
from lsvcr.errors import DataError


class Arm(BaseModel):
    """One variant; `weight` is its share of the units, relative to the others'."""

    model_config = ConfigDict(frozen=True)

    name: str
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]


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
    """An experiment. Fields that matter to the assignment alone are passed over.

    Attributes:
        arms: Those of weight 0 (shadows, arms that are only forced) are in no comparison.
        created_at: Unix ms; what was shown before belongs to an earlier experiment of that name.
    """

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(min_length=1)]
    arms: tuple[Arm, ...]
    control: str
    primary_metric: str = OUTCOMES[0].name
    created_at: int = 0

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        names = [arm.name for arm in self.arms if arm.weight > 0]
        if len(names) < 2:
            raise ValueError(f"arms: two with a weight are needed to compare, found {names}")
        if len(set(names)) < len(names):
            raise ValueError(f"arms: two of the same name in {names}")
        if self.control not in names:
            raise ValueError(f"control: {self.control!r} is none of the arms {names}")
        known = [metric.name for metric in OUTCOMES]
        if self.primary_metric not in known:
            raise ValueError(f"primary_metric: {self.primary_metric!r} is none of {known}")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The arms that are compared, with their weights."""
        return {arm.name: arm.weight for arm in self.arms if arm.weight > 0}

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms that are compared with the control."""
        return tuple(name for name in self.weights if name != self.control)


Model = TypeVar("Model", Definition, Plan)


def load_json(path: Path, model: type[Model]) -> Model:
    """Read a definition, as `GET /admin/experiments/{name}` answers it, or a plan.

    Raises:
        DataError: If it can't be read or doesn't fit; names the field.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {place + ': ' if place else ''}{first['msg']}") from error
