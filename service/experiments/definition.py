"""What an experiment is, and which definitions are refused."""

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.experiments.hashing import sum_to_one
from service.schemas import Body, Count, DiversityWish, Flag, Identifier

Name = Annotated[
    str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)
]
"""Of an experiment, arm or layer: it stands in paths and headers."""
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Metric = Literal[
    "video_watch_time_ms",
    "comment_watch_time_ms",
    "watch_time_ms",
    "video_events",
    "comment_events",
]


class Overrides(Body):
    """Ranking settings of an arm; what a request says itself stands above them."""

    diversity: DiversityWish | None = None
    popularity_weight: Annotated[float, Field(ge=0, le=100, strict=True)] | None = Field(
        default=None, description="Factor of the popularity prior's part of a video's score."
    )
    max_history: Count | None = Field(
        default=None, description="Events of each side that the model reads, the newest."
    )


class Guardrails(Body):
    """Limits on each arm but the control's: the first that is broken stops the experiment."""

    answers: Annotated[int, Strict(), Field(ge=10, le=100_000)] = Field(
        default=200, description="Newest answers of an arm that are looked at, on each replica."
    )
    error_rate: Fraction | None = Field(default=None, description="Most that may fail.")
    empty_rate: Fraction | None = Field(default=None, description="Most that may be empty.")
    mean_latency_ms: Annotated[float, Field(gt=0, strict=True)] | None = Field(
        default=None, description="Most that an answer may take on average."
    )


class Arm(Body):
    """One variant."""

    name: Name
    weight: Fraction = 0.0
    model_version: Identifier | None = Field(
        default=None, description="A bundle of the registry; without it, the current one."
    )
    overrides: Overrides = Field(default_factory=Overrides)
    shadow: Flag = Field(
        default=False, description="Computed after each answer and logged, never answered."
    )


class Inclusion(Body):
    """Who may take part; an empty list is no condition."""

    user_ids: Annotated[list[Identifier], Field(max_length=10_000)] = Field(default_factory=list)

    @cached_property
    def users(self) -> frozenset[str]:
        """The same, for looking up."""
        return frozenset(self.user_ids)


class Experiment(Body):
    """A question and its arms."""

    name: Name
    seed: Annotated[str, Strict(), Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="Of the hash; by default the name."
    )
    layer: Name | None = Field(
        default=None, description="Experiments of one layer never share a user."
    )
    layer_range: tuple[Fraction, Fraction] = Field(
        default=(0.0, 1.0), description="The part of the layer's users that may take part."
    )
    coverage: Fraction = 1.0
    arms: Annotated[list[Arm], Field(min_length=1, max_length=20)]
    control: Name
    holdout: Fraction = Field(
        default=0.0, description="Part of all users kept out of every experiment that says so."
    )
    include: Inclusion = Field(default_factory=Inclusion)
    forced: Annotated[dict[Identifier, Name], Field(max_length=10_000)] = Field(
        default_factory=dict, description="Arms by user, whatever the bucket says."
    )
    sticky: Flag = Field(
        default=False, description="Whoever has an arm keeps it when the definition changes."
    )
    status: Literal["draft", "running", "stopped"] = "draft"
    primary_metric: Metric = "watch_time_ms"
    guardrails: Guardrails | None = None

    @property
    def versions(self) -> set[str]:
        """The bundles that its arms name."""
        return {arm.model_version for arm in self.arms if arm.model_version is not None}

    def arm(self, name: str) -> Arm:
        """An arm by name; raises KeyError."""
        return next(arm for arm in self.arms if arm.name == name)

    @cached_property
    def answering_arms(self) -> frozenset[str]:
        """The names of the arms that are no shadows."""
        return frozenset(arm.name for arm in self.arms if not arm.shadow)

    @property
    def chosen(self) -> set[str]:
        """What its arms decide of an answer: `model_version`, or names of overrides."""
        names: set[str] = set()
        for arm in self.arms:
            if not arm.shadow:
                names |= arm.overrides.model_dump(exclude_none=True).keys()
                names |= {"model_version"} if arm.model_version is not None else set()
        return names

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise PydanticCustomError("arms", "Each arm needs a name of its own")
        if self.control not in self.answering_arms:
            raise PydanticCustomError("control", "control should name an arm that is no shadow")
        if not sum_to_one([arm.weight for arm in self.arms]):
            raise PydanticCustomError("weights", "The weights of the arms should sum to 1")
        if any(arm.shadow and arm.weight for arm in self.arms):
            raise PydanticCustomError("shadow", "A shadow arm has the weight 0")
        if not set(self.forced.values()) <= self.answering_arms:
            raise PydanticCustomError("forced", "forced should name arms that are no shadows")
        if self.layer_range[0] >= self.layer_range[1]:
            raise PydanticCustomError("layer_range", "layer_range should be two rising numbers")
        if self.layer is None and self.layer_range != (0.0, 1.0):
            raise PydanticCustomError("layer_range", "layer_range needs a layer")
        return self
