"""One bundle, loaded and warm: the whole engine behind a handful of asynchronous questions."""

import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Self

import numpy as np

from lsvcr.bundle import load_bundle
from lsvcr.catalogue import Catalogue
from lsvcr.errors import LsvcrError
from service.engine.batching import Batcher
from service.engine.bundle_opening import Device, open_ranker
from service.engine.popularity_prior import LiveCounts
from service.engine.queries import (
    Answer,
    CommentQuery,
    FeedQuery,
    Query,
    SimilarQuery,
    VideoQuery,
)
from service.engine.ranker import Ranker

logger = logging.getLogger(__name__)


class Recommender:
    """Answers with one bundle; its one worker thread owns the graphs and indexes.

    The thread ends by itself once the last user of this object has let go of it, so a request
    may finish with the bundle it began with while the pool has long moved on.
    """

    def __init__(
        self,
        ranker: Ranker,
        thread: ThreadPoolExecutor,
        *,
        device_wanted: Device,
        cpu_reason: str | None,
        max_queue: int,
        max_batch: int,
    ) -> None:
        self.version: str = ranker.bundle.manifest.version
        self._ranker = ranker
        self._thread = thread
        self._device_wanted = device_wanted
        self._cpu_reason = cpu_reason
        self._counts: LiveCounts | None = None
        self._batcher: Batcher[Query, Answer | LsvcrError] = Batcher(
            ranker.answer, thread, max_queue=max_queue, max_batch=max_batch
        )

    @classmethod
    def load(cls, folder: Path, *, device: Device, max_queue: int, max_batch: int) -> Self:
        """Load, check and warm up a bundle; takes seconds, so not for an event loop.

        Raises:
            BundleError: If anything about the bundle is wrong.
            NotReadyError: If `cuda` is wanted and can't be had.
        """
        started_s = time.perf_counter()
        bundle = load_bundle(folder)
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"recommender-{bundle.manifest.version}")
        try:
            opening = thread.submit(open_ranker, bundle, device, max_batch=max_batch)
            ranker, cpu_reason = opening.result()
        except BaseException:
            thread.shutdown()
            raise
        recommender = cls(
            ranker,
            thread,
            device_wanted=device,
            cpu_reason=cpu_reason,
            max_queue=max_queue,
            max_batch=max_batch,
        )
        logger.info(
            "bundle %s is warm on %s after %.1f s",
            recommender.version,
            ranker.encoder.device,
            time.perf_counter() - started_s,
        )
        return recommender

    async def recommend_videos(self, query: VideoQuery) -> Answer:
        """Rank videos for one user; a user without known history gets the popular ones."""
        return await self._ask(query)

    async def recommend_comments(self, query: CommentQuery) -> Answer:
        """Rank comments, under the query's video or over all; raises UnknownVideoError."""
        return await self._ask(query)

    async def recommend_feed(self, query: FeedQuery) -> Answer:
        """Rank videos, each with its best comments."""
        return await self._ask(query)

    async def similar_videos(
        self, video_id: str, k: int, *, deadline_s: float = math.inf
    ) -> Answer:
        """Rank the videos nearest to one; raises UnknownVideoError."""
        return await self._ask(SimilarQuery(video_id, k, deadline_s))

    def update_popularity(self, counts: LiveCounts) -> None:
        """Let newer counts speak from the next batch on; counts already known cost nothing.

        May be called from any thread, but takes milliseconds: not for an event loop.
        """
        if counts is not self._counts:
            self._ranker.update_popularity(counts)
            self._counts = counts

    @property
    def catalogue(self) -> Catalogue:
        """What this bundle knows of its items; may be read from any thread."""
        return self._ranker.bundle.catalogue

    def item_id(self, kind: Literal["video", "comment"], item_hash: int) -> str | None:
        """Find the identifier behind an item hash; None if this bundle doesn't know it."""
        catalogue = self._ranker.bundle.catalogue
        index, identifiers = (
            (catalogue.video_index, catalogue.video_id)
            if kind == "video"
            else (catalogue.comment_index, catalogue.comment_id)
        )
        row = int(index.rows(np.array([item_hash], np.uint64))[0])
        return identifiers[row] if row else None

    def status(self) -> dict[str, object]:
        """Describe what is loaded and where it runs."""
        manifest = self._ranker.bundle.manifest
        return {
            "version": self.version,
            "created_at": manifest.created_at,
            "data_until_ms": manifest.data_until_ms,
            "counts": manifest.counts.model_dump(),
            "device_wanted": self._device_wanted,
            **self._ranker.encoder.describe(),
            "cpu_reason": self._cpu_reason,
            "index_device": self._ranker.video_index.device,
            "index_recall": {kind: entry.recall_at_100 for kind, entry in manifest.indexes.items()},
            "golden": "ok",  # nothing is served before it is
            "warm": True,
            "waiting": self._batcher.waiting,
        }

    def close(self) -> None:
        """Finish what is waiting, then end the thread; later questions get NotReadyError."""
        self._thread.shutdown()

    async def _ask(self, query: Query) -> Answer:
        started_s = time.perf_counter()
        deadline_s = query.videos.deadline_s if isinstance(query, FeedQuery) else query.deadline_s
        outcome = await self._batcher.submit(query, deadline_s)
        answer = outcome.answer
        if isinstance(answer, LsvcrError):
            raise answer
        answer.timings_ms["queue"] = outcome.queue_ms
        answer.timings_ms["total"] = (time.perf_counter() - started_s) * 1000
        return answer
