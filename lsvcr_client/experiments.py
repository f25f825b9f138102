"""Experiments as they are put and told."""

from typing import Literal

from msgspec import Struct, field

from lsvcr_client.wishes import Diversity


class Overrides(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ranking settings of an arm; what a request says itself stands above them."""

    diversity: Diversity | None = None
    popularity_weight: float | None = None
    max_history: int | None = None


class Arm(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One variant; without `model_version` the current model, `shadow` is never answered."""

    name: str
    weight: float = 0.0
    model_version: str | None = None
    overrides: Overrides = field(default_factory=Overrides)
    shadow: bool = False


class Inclusion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who may take part; an empty list is no condition."""

    user_ids: list[str] = field(default_factory=list)


class Guardrails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits on each arm but the control's: the first that is broken stops the experiment."""

    answers: int = 200
    error_rate: float | None = None
    empty_rate: float | None = None
    mean_latency_ms: float | None = None


class Experiment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question and its arms; docs/experiments.md of the service explains each field."""

    name: str
    arms: list[Arm]
    control: str
    seed: str | None = None
    layer: str | None = None
    layer_range: tuple[float, float] = (0.0, 1.0)
    coverage: float = 1.0
    holdout: float = 0.0
    include: Inclusion = field(default_factory=Inclusion)
    forced: dict[str, str] = field(default_factory=dict)
    sticky: bool = False
    status: Literal["draft", "running", "stopped"] = "draft"
    primary_metric: Literal[
        "video_watch_time_ms",
        "comment_watch_time_ms",
        "watch_time_ms",
        "video_events",
        "comment_events",
    ] = "watch_time_ms"
    guardrails: Guardrails | None = None


class ExperimentRecord(Experiment, frozen=True, kw_only=True, omit_defaults=True):
    """An experiment as it was put, when, and whether the replica that answers has it in effect."""

    created_at: int
    changed_at: int
    in_effect: bool
