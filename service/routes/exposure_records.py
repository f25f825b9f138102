"""Turns answers into entries of the exposure log."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from service.engine.queries import Answer
from service.experiments.assignment import Assignment
from service.exposure_log import ExposedTo, Exposure
from service.routes.recommendation_queries import RecommendBody
from service.schemas import CommentsBody


def build_exposure(
    kind: str,
    content: Mapping[str, Any],
    answer: Answer,
    body: RecommendBody,
    exposed: Sequence[Assignment],
) -> Exposure:
    """Describe an answer.

    Args:
        kind: `videos`, `comments` or `feed`.
        content: What is answered.
        answer: The engine's.
        body: What was asked.
        exposed: The running experiments that the unit is in.
    """
    return Exposure(
        recommendation_id=content["recommendation_id"],
        timestamp=time.time_ns() // 1_000_000,
        endpoint=kind,
        model_version=answer.model_version,
        source=answer.source,
        k=body.k,
        latency_ms=content["timings_ms"]["total"],
        user_id=body.user_id,
        unit_id=body.unit_id,
        experiments=tuple(ExposedTo(one.experiment, str(one.arm), one.reason) for one in exposed),
        video_ids=answer.video_ids,
        comment_ids=answer.comment_ids,
        scores=answer.scores,
        on_video=body.video_id if isinstance(body, CommentsBody) else None,
        history_used=answer.history_used,
        degraded=tuple(content["degraded"]),
    )


def build_shadow_exposure(
    shown: Exposure, answer: Answer, exposed_to: ExposedTo, latency_ms: float
) -> Exposure:
    """Describe what a shadow arm would have answered where something else was shown."""
    return msgspec.structs.replace(
        shown,
        model_version=answer.model_version,
        source=answer.source,
        latency_ms=round(latency_ms, 3),
        experiments=(exposed_to,),
        video_ids=answer.video_ids,
        comment_ids=answer.comment_ids,
        scores=answer.scores,
        history_used=answer.history_used,
        degraded=answer.degraded,
        is_shadow=True,
    )
