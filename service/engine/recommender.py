"""One bundle, loaded and warm: the whole engine behind a handful of asynchronous questions."""

import asyncio
import math
import time
from pathlib import Path
from typing import Self

import numpy as np

from lsvcr.bundle import check_files, load_manifest, map_bundle
from lsvcr.catalogue import Catalogue
from lsvcr.errors import BundleError, LsvcrError
from service.engine.batching import Batcher
from service.engine.engine import Engine
from service.engine.popularity import PopularItems
from service.engine.popularity_prior import LiveCounts, PopularityPrior
from service.engine.queries import (
    Answer,
    CommentQuery,
    EventHistory,
    FeedQuery,
    Query,
    SimilarQuery,
    VideoQuery,
)
from service.engine.ranker import Ranker
from service.engine.recall_check import RecallCheck, check_recall

LEAST_BESIDE = 4
"""Queries of a batch that begins beside one under way. Fewer cost the engine more than they gain;
with many more a front-end stands still until the engine has answered."""
FEW = 2
"""Queries under way, or fewer, beside which one is enough: the engine has little to do then."""


class Recommender:
    """Answers with one bundle; belongs to one event loop.

    What it holds is let go of with its last user, so a request may finish with the bundle it
    began with while the pool has long moved on.
    """

    def __init__(
        self, ranker: Ranker, counts: LiveCounts | None, *, max_queue: int, max_batch: int
    ) -> None:
        self.version: str = ranker.bundle.manifest.version
        self._ranker = ranker
        self._counts = counts
        self._batcher: Batcher[Query, Answer | LsvcrError] = Batcher(
            ranker.answer,
            max_queue=max_queue,
            max_batch=max_batch,
            in_flight=ranker.opened.in_flight,
            least_beside=min(LEAST_BESIDE, max(1, max_batch // 2)),
            few=FEW,
        )

    @classmethod
    async def load(
        cls,
        engine: Engine,
        folder: Path,
        *,
        max_queue: int,
        max_batch: int,
        counts: LiveCounts | None = None,
    ) -> Self:
        """Open a bundle of the engine's registry, checked and warm, and all that ranking takes.

        Args:
            engine: Opens it.
            folder: Of the bundle, in that registry.
            max_queue: Queries that may wait for the model.
            max_batch: Queries computed together, at most.
            counts: What happened lately; None takes what the bundle knows.

        Raises:
            BundleError: If anything about the bundle is wrong.
            NotReadyError: If `cuda` is wanted and can't be had.
        """
        opened, prior = await asyncio.gather(
            engine.open(folder.name),
            asyncio.to_thread(_prior_of, folder, counts),  # half a second of a million videos
            return_exceptions=True,
        )
        if isinstance(opened, BaseException):  # what is wrong with the bundle, whatever else failed
            raise opened
        if isinstance(prior, BaseException):
            raise prior
        ranker = await asyncio.to_thread(Ranker, opened, prior)
        await ranker.share_popularity()
        await _warm_up(ranker)
        return cls(ranker, counts, max_queue=max_queue, max_batch=max_batch)

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

    async def update_popularity(self, counts: LiveCounts) -> None:
        """Let newer counts speak from the next batch on; counts already known cost little."""
        if counts is not self._counts:
            await asyncio.to_thread(self._ranker.update_popularity, counts)
            self._counts = counts
        await self._ranker.share_popularity()

    @property
    def catalogue(self) -> Catalogue:
        """What this bundle knows of its items; may be read from any thread."""
        return self._ranker.bundle.catalogue

    def status(self) -> dict[str, object]:
        """Describe what is loaded and where it runs."""
        manifest = self._ranker.bundle.manifest
        return {
            "version": self.version,
            "created_at": manifest.created_at,
            "data_until_ms": manifest.data_until_ms,
            "counts": manifest.counts.model_dump(),
            **self._ranker.opened.describe(),
            "index_recall": {kind: entry.recall_at_100 for kind, entry in manifest.indexes.items()},
            "golden": "ok",  # nothing is served before it is
            "warm": True,
            "waiting": self._batcher.waiting,
        }

    async def check_recall(self) -> RecallCheck | None:
        """Compare index and exact scan for who asked last; None if nobody has since."""
        preference_D = self._ranker.latest_preference_D
        if preference_D is None:
            return None
        self._ranker.latest_preference_D = None
        return await check_recall(self._ranker.opened, preference_D)

    async def close(self) -> None:
        """Finish what is waiting; later questions get NotReadyError."""
        await self._batcher.close()

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


async def _warm_up(ranker: Ranker) -> None:
    """Answer a full feed and comments; nothing may be refused or degraded."""
    catalogue = ranker.bundle.catalogue
    video_hash_N = np.asarray(catalogue.video_index.sorted_hash_N[:3])
    comment_hash_M = np.asarray(catalogue.comment_index.sorted_hash_N[:3])
    history = EventHistory(
        video_hash_N,
        np.arange(len(video_hash_N), dtype=np.int64),
        comment_hash_M,
        np.arange(len(comment_hash_M), dtype=np.int64),
    )
    videos = VideoQuery(history, k=20, deadline_s=math.inf, exclude_seen=False)
    comments = CommentQuery(history, k=20, deadline_s=math.inf)
    for query in (FeedQuery(videos, 3), comments):
        (answer,) = await ranker.answer([query])
        if isinstance(answer, Exception) or answer.degraded:
            raise BundleError("the bundle fails at a first question")
        await asyncio.sleep(0)  # others are being answered


def _prior_of(folder: Path, counts: LiveCounts | None) -> PopularityPrior | None:
    """A bundle's prior, from files whose content nobody may have checked yet: of use if it passes.

    Their types and sizes are looked at, as reading a pipe would never end.
    """
    manifest = load_manifest(folder)
    if manifest.prior is None:
        return None
    check_files(folder, manifest)
    bundle = map_bundle(folder)
    popular = PopularItems.of_videos(bundle.popular, bundle.catalogue.video_count)
    return PopularityPrior.build(bundle, popular, counts)
