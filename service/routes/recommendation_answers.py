"""Turns the engine's answers into JSON."""

import time
from collections.abc import Iterable

import msgspec

from service.engine.queries import Answer, RankedComment, RankedVideo, Reason
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
        "items": _items(answer.items),
        "source": answer.source,
        "model": {"version": answer.model_version, "arm": arm, "experiment": experiment},
        "history_used": {"videos": videos, "comments": comments},
        "ignored": answer.ignored,
        "degraded": [*degraded, *answer.degraded],
        "timings_ms": {stage: round(took_ms, 3) for stage, took_ms in timings_ms.items()},
    }


def _items(items: Iterable[RankedVideo | RankedComment]) -> list[dict[str, object]]:
    return [
        _video(item, rank) if isinstance(item, RankedVideo) else _comment(item, rank)
        for rank, item in enumerate(items, start=1)
    ]


def _video(item: RankedVideo, rank: int) -> dict[str, object]:
    entry: dict[str, object] = {
        "video_id": item.video_id,
        "rank": rank,
        "score": item.score,
        "title": item.title,
    }
    _explain(entry, item)
    if item.comments is not None:
        entry["comments"] = _items(item.comments)
    return entry


def _comment(item: RankedComment, rank: int) -> dict[str, object]:
    entry: dict[str, object] = {
        "comment_id": item.comment_id,
        "video_id": item.video_id,
        "rank": rank,
        "score": item.score,
        "text": item.text,
    }
    _explain(entry, item)
    return entry


def _explain(entry: dict[str, object], item: RankedVideo | RankedComment) -> None:
    if item.parts is not None:
        entry["parts"] = item.parts
    if item.because is not None:
        entry["because"] = [_reason(reason) for reason in item.because]


def _reason(reason: Reason) -> dict[str, object]:
    return {f"{reason.kind}_id": reason.item_id, "share": reason.share}
