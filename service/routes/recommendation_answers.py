"""Turns the engine's answers into JSON."""

import time

import msgspec

from service.engine.queries import Answer
from service.random_ids import new_recommendation_id

encode_json = msgspec.json.Encoder().encode


def build_answer(
    answer: Answer,
    *,
    user_id: str | None,
    label: tuple[str, str] | None = None,
    degraded: tuple[str, ...] = (),
    history_ms: float = 0.0,
    started_s: float,
) -> dict[str, object]:
    """Lay out one recommendation as the interface promises it.

    Args:
        answer: The engine's.
        user_id: Whom it is for, if anybody is known.
        label: Experiment and arm, where one applied.
        degraded: What was missing before the engine was asked.
        history_ms: What reading the history took.
        started_s: `time.monotonic()` of the request's arrival.
    """
    timings_ms = {
        "history": history_ms,
        **answer.timings_ms,
        "total": (time.monotonic() - started_s) * 1000,
    }
    videos, comments = answer.history_used
    experiment, arm = label or (None, None)
    return {
        "recommendation_id": new_recommendation_id(),
        "user_id": user_id,
        "items": answer.items,
        "source": answer.source,
        "model": {"version": answer.model_version, "arm": arm, "experiment": experiment},
        "history_used": {"videos": videos, "comments": comments},
        "ignored": answer.ignored,
        "degraded": [*degraded, *answer.degraded],
        "timings_ms": {stage: round(took_ms, 3) for stage, took_ms in timings_ms.items()},
    }
