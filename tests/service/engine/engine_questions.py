"""Short ways to ask the engine, and the slow clear answers to compare with."""

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tiny_bundle_builder import COMMENTS_PER_EVENT, MAX_HISTORY, encode, prefer_comments

from lsvcr.bundle import Bundle
from lsvcr.catalogue import NO_TIME, item_hashes
from lsvcr.errors import LsvcrError
from lsvcr.history import HistoryBatch, Timelines
from service.engine.candidate_index import CandidateBatch, CandidateIndex, Candidates, IndexSize
from service.engine.engine import InlineEngine
from service.engine.queries import (
    Answer,
    CommentQuery,
    EventHistory,
    Query,
    VideoFilter,
    VideoQuery,
)
from service.engine.ranker import Ranker

HOUR_MS = 3_600_000


def history(videos: Sequence[str] = (), comments: Sequence[str] = ()) -> EventHistory:
    """Events an hour apart, oldest first; the comment events come half an hour later each."""
    return EventHistory(
        item_hashes(videos),
        np.arange(len(videos), dtype=np.int64) * HOUR_MS,
        item_hashes(comments),
        np.arange(len(comments), dtype=np.int64) * HOUR_MS + HOUR_MS // 2,
    )


def open_ranker(folder: Path) -> Ranker:
    """A bundle, opened on the CPU and in this process."""
    engine = InlineEngine(folder.parent, device="cpu", max_batch=4)
    return Ranker(asyncio.run(engine.open(folder.name)))


def answer_all(ranker: Ranker, queries: Sequence[Query]) -> list[Answer | LsvcrError]:
    return asyncio.run(ranker.answer(queries))


def answer(ranker: Ranker, query: Query) -> Answer:
    [result] = answer_all(ranker, [query])
    assert isinstance(result, Answer)
    return result


class OnlyVideos:
    """An index behind the engine's seam, without a bundle around it."""

    def __init__(self, index: CandidateIndex) -> None:
        self.sizes = {"video": index.extent}
        self._index = index

    async def search(
        self, kind: str, query_BD: NDArray[np.float32], counts: Sequence[int]
    ) -> list[Candidates]:
        return self._index.search(query_BD, counts)


class ExactIndex:
    """Every row compared with every query by the whole score, as `CudaNearest` does on a GPU.

    Args:
        candidate_VD: By row.
        parts_VF: What stands behind these; None where `set_part` tells later.
    """

    device = "cpu"

    def __init__(
        self, candidate_VD: NDArray[np.float32], parts_VF: NDArray[np.float32] | None = None
    ) -> None:
        rows = len(candidate_VD) - 1
        self.extent = IndexSize(rows, rows, takes_parts=True)
        self.parts_VF = parts_VF
        self.asked: list[int] = []
        self._candidate_VD = candidate_VD

    def set_part(self, part_V: NDArray[np.float32]) -> None:
        self.parts_VF = part_V[:, None]

    def search(self, query_BX: NDArray[np.float32], counts: Sequence[int]) -> CandidateBatch:
        self.asked.append(max(counts))
        width = self._candidate_VD.shape[1]
        part_BV = query_BX[:, :width] @ self._candidate_VD.T
        with_parts = query_BX.shape[1] > width and self.parts_VF is not None
        if with_parts and self.parts_VF is not None:
            part_BV += query_BX[:, width:] @ self.parts_VF.T
        part_BV[:, 0] = -np.inf
        row_BK = np.argsort(-part_BV, axis=1, kind="stable")[:, : max(counts)]
        part_BK = np.take_along_axis(part_BV, row_BK, axis=1)
        return CandidateBatch(row_BK, part_BK, counts, self.extent.rows, 1e-6, with_parts)


def ask_videos(events: EventHistory | None, k: int = 10, **options: object) -> VideoQuery:
    return VideoQuery(events, k, math.inf, **options)  # type: ignore[arg-type]


def ask_comments(events: EventHistory | None, k: int = 10, **options: object) -> CommentQuery:
    return CommentQuery(events, k, math.inf, **options)  # type: ignore[arg-type]


def encoder_batch(bundle: Bundle, events: EventHistory) -> HistoryBatch:
    """The encoder's inputs for one user whose items are all known."""
    catalogue = bundle.catalogue
    video_N = catalogue.video_index.rows(events.video_hash_N)
    comment_C = catalogue.comment_index.rows(events.comment_hash_M)
    return Timelines.build(
        users=1,
        video_user_N=np.zeros(len(video_N), np.int64),
        video_N=video_N,
        video_time_N=events.video_timestamp_N,
        comment_user_C=np.zeros(len(comment_C), np.int64),
        comment_C=comment_C,
        comment_video_C=catalogue.comment_video_C[comment_C],
        comment_time_C=events.comment_timestamp_M,
        comments_per_event=COMMENTS_PER_EVENT,
    ).latest_windows(MAX_HISTORY)


def video_preference(bundle: Bundle, events: EventHistory) -> NDArray[np.float32]:
    return encode(encoder_batch(bundle, events), bundle.tables)[0][0]


def comment_preference(
    bundle: Bundle, events: EventHistory, target_D: NDArray[np.float32]
) -> NDArray[np.float32]:
    batch = encoder_batch(bundle, events)
    _, state_BJD, _ = encode(batch, bundle.tables)
    return prefer_comments(state_BJD, batch.comment_last_BJ, target_D[None, None])[0][0, 0]


def best_rows(
    preference_D: NDArray[np.float32], candidate_ND: NDArray[np.float32], rows: Sequence[int]
) -> list[int]:
    """A full sort by score, then row. Scores are rounded, so that equal vectors tie."""
    score = {row: round(float(candidate_ND[row] @ preference_D), 5) for row in rows}
    return sorted(rows, key=lambda row: (-score[row], row))


def matches(bundle: Bundle, row: int, condition: VideoFilter) -> bool:
    catalogue = bundle.catalogue
    category = catalogue.categories[catalogue.category_V[row]] or None
    author = catalogue.authors[catalogue.author_V[row]] or None
    published_ms = catalogue.published_V[row]
    after_ms, before_ms = condition.published_after_ms, condition.published_before_ms
    return (
        (not condition.categories_any or category in condition.categories_any)
        and category not in condition.categories_none
        and (not condition.authors_any or author in condition.authors_any)
        and author not in condition.authors_none
        and (after_ms is None or (published_ms != NO_TIME and published_ms >= after_ms))
        and (before_ms is None or (published_ms != NO_TIME and published_ms < before_ms))
    )
