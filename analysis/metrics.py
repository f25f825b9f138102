"""What is compared between arms. A metric is a mean per unit, or a ratio of two of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A mean over units of `numerator`, or of it over the mean of `denominator`.

    Attributes:
        name: As in a definition's `primary_metric` and in the JSON report.
        title: In words.
        numerator, denominator: Columns of the unit table.
        covariate: Column of the pre-period, for CUPED.
        margin: Guardrails only: the worsening that is tolerated unless the plan says otherwise.
    """

    name: str
    title: str
    numerator: str
    denominator: str | None = None
    covariate: str | None = None
    margin: float = 0.0


def _per_unit(name: str, title: str) -> Metric:
    return Metric(name, title, numerator=name, covariate=f"pre_{name}")


def _per_answer(name: str, title: str, numerator: str, margin: float = 0.0) -> Metric:
    return Metric(name, title, numerator=numerator, denominator="exposures", margin=margin)


OUTCOMES = (
    _per_unit("watch_time_ms", "watch time per unit (ms)"),
    _per_unit("comment_watch_time_ms", "comment watch time per unit (ms)"),
    _per_unit("video_watch_time_ms", "video watch time per unit (ms)"),
    _per_unit("video_events", "video events per unit"),
    _per_unit("comment_events", "comment events per unit"),
    _per_unit("interactions", "likes, shares, replies and comments per unit"),
    _per_answer("click_through", "answers that were followed by an event", "followed"),
)
"""More is better."""

GUARDRAILS = (
    _per_answer("degraded_answers", "degraded answers (share)", "degraded", margin=0.005),
    _per_answer("empty_answers", "empty answers (share)", "empty", margin=0.005),
    _per_answer("latency_ms", "latency (mean, ms)", "latency_ms", margin=5.0),
)
"""Less is better."""

CUT = tuple(metric.numerator for metric in OUTCOMES if metric.covariate)
"""Columns that winsorising applies to."""
