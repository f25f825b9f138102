"""Which bundles of the registry are loaded, which one answers, and how that changes.

A new bundle is loaded, checked and warmed up beside the one that answers; then one assignment
swaps them. Whoever holds the old `Recommender` finishes with it. Versions that experiments name
are kept warm beside the current one.
"""

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lsvcr.bundle import load_manifest
from lsvcr.errors import BundleError, LsvcrError
from lsvcr.registry import Current, list_versions, read_current, write_current
from service.engine.engine import Engine
from service.engine.popularity_prior import LiveCounts
from service.engine.recommender import Recommender
from service.errors import NotReadyError, UnknownModelError

RETRY_AFTER_S = 30.0
"""How long `refresh` takes a bundle's refusal for granted; `activate` always tries."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a `current.json` could not be followed, and when that was tried."""

    current: Current
    error: LsvcrError
    tried_s: float

    def is_fresh(self, current: Current) -> bool:
        return current == self.current and time.monotonic() - self.tried_s < RETRY_AFTER_S


class ModelPool:
    """The registry's current bundle, loaded, and others that are kept beside it.

    Args:
        registry: Folder of bundles (`lsvcr.registry`).
        engine: Where encoders and indexes of that registry run.
        max_queue: Queries that may wait for the model.
        max_batch: Queries computed together, at most.
        only: The version to answer with, whatever is current: for a deployment per version.
    """

    def __init__(
        self,
        registry: Path,
        engine: Engine,
        *,
        max_queue: int,
        max_batch: int,
        only: str | None = None,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._only = only
        self._current: Recommender | None = None
        self._beside: dict[str, Recommender] = {}
        self._failure: str | None = "no bundle has been loaded yet"
        self._refusal: _Refusal | None = None
        self._changing = asyncio.Lock()
        self._counts: LiveCounts | None = None

    async def open(self) -> None:
        """Load the current bundle; where that fails, `readiness` tells why."""
        try:
            await self.refresh()
        except LsvcrError as error:
            logger.error("not ready: %s", error)

    async def close(self) -> None:
        """Let go of all bundles, after what is waiting for them."""
        async with self._changing:
            recommenders = self._loaded()
            self._current, self._beside = None, {}
            self._failure = "the service is stopping"
            for recommender in recommenders:
                await recommender.close()

    def current(self) -> Recommender:
        """The bundle that answers; raises NotReadyError while there is none."""
        if self._current is None:
            raise NotReadyError(self._failure or "no bundle is loaded")
        return self._current

    def get(self, version: str) -> Recommender:
        """A loaded bundle by version; raises UnknownModelError."""
        recommender = self._find(version)
        if recommender is None:
            raise UnknownModelError(f"model {version!r} is not loaded")
        return recommender

    def has(self, version: str) -> bool:
        """Whether a version is loaded and warm."""
        return self._find(version) is not None

    async def keep(self, versions: Collection[str]) -> None:
        """Keep versions warm beside the current one, and let go of any others.

        Raises:
            UnknownModelError: If the registry doesn't have one of them.
            BundleError: If one fails its checks. All that can be loaded are loaded all the same.
        """
        failure: LsvcrError | None = None
        async with self._changing:
            beside = {}
            for version in versions:
                try:
                    beside[version] = await self._find_or_load(version)
                except LsvcrError as error:
                    failure = error
            self._beside = beside
        if failure is not None:
            raise failure

    async def update_popularity(self, counts: LiveCounts) -> None:
        """Tell what happened lately to what answers, and to every bundle that is loaded later.

        To be repeated with the same counts: a bundle may have been on its way meanwhile.
        """
        self._counts = counts
        for recommender in self._loaded():
            await recommender.update_popularity(counts)

    async def activate(self, version: str) -> None:
        """Serve another version, and make it the registry's current one.

        Raises:
            UnknownModelError: If the registry doesn't have it.
            BundleError: If it fails its checks, or another version alone is to be served. The old
                one goes on serving.
        """
        async with self._changing:
            await self._activate(version)

    async def rollback(self) -> str:
        """Activate what was current before, and name it.

        Raises:
            UnknownModelError: If nothing was, or it is gone.
            BundleError: As `activate`.
        """
        async with self._changing:
            current = await asyncio.to_thread(self._read_current)
            if current is None or current.previous is None:
                raise UnknownModelError("no version was current before this one")
            await self._activate(current.previous)
            return current.previous

    async def refresh(self) -> str:
        """Look at the registry now; load its current version if that isn't the one that answers.

        Returns:
            The version that answers.

        Raises:
            NotReadyError: If the registry has no current version.
            BundleError: If it can't be loaded. The old one goes on serving.
        """
        async with self._changing:
            try:
                current = await asyncio.to_thread(self._read_current)
                if current is None:
                    raise NotReadyError("the registry has no current version")
                if self._current is None or self._current.version != current.version:
                    self._swap(
                        self._find(current.version) or await self._load_unless_refused(current)
                    )
            except LsvcrError as error:
                self._failure = str(error)
                raise
            return current.version

    def listing(self) -> list[dict[str, object]]:
        """Describe the registry's versions, oldest first; reads their manifests."""
        current = self._read_current()
        entries: list[dict[str, object]] = []
        for version in list_versions(self._registry):
            entry: dict[str, object] = {
                "version": version,
                "current": current is not None and current.version == version,
                "loaded": self.has(version),
            }
            try:
                manifest = load_manifest(self._registry / version)
                entry["created_at"] = manifest.created_at
                entry["counts"] = manifest.counts.model_dump()
            except BundleError as error:
                entry["error"] = str(error)
            entries.append(entry)
        return entries

    def readiness(self) -> list[str]:
        """Why the service can't answer; empty if it can."""
        if self._current is None:
            return [self._failure or "no bundle is loaded"]
        problem = self._engine.problem(self._loaded_versions())
        return [] if problem is None else [problem]

    def lost(self) -> list[str]:
        """Which parts of the engine don't compute now, while the rest answers."""
        return self._engine.lost(self._loaded_versions())

    def _read_current(self) -> Current | None:
        if self._only is not None:
            return Current(version=self._only, previous=None, activated_at="")
        return read_current(self._registry)

    def _loaded(self) -> list[Recommender]:
        current = [] if self._current is None else [self._current]
        return [*current, *(one for one in self._beside.values() if one is not self._current)]

    def _loaded_versions(self) -> set[str]:
        return {recommender.version for recommender in self._loaded()}

    def _find(self, version: str) -> Recommender | None:
        if self._current is not None and self._current.version == version:
            return self._current
        return self._beside.get(version)

    async def _find_or_load(self, version: str) -> Recommender:
        if (found := self._find(version)) is not None:
            return found
        if version not in await asyncio.to_thread(list_versions, self._registry):
            raise UnknownModelError(f"the registry has no version {version!r}")
        return await self._load(version)

    async def _activate(self, version: str) -> None:
        if self._only is not None:
            raise BundleError(f"this deployment answers with {self._only} alone")
        recommender = await self._find_or_load(version)
        await asyncio.to_thread(write_current, self._registry, version)
        self._swap(recommender)

    async def _load_unless_refused(self, current: Current) -> Recommender:
        """Load, but don't read a refused bundle again at every look at the registry."""
        if self._refusal is not None and self._refusal.is_fresh(current):
            raise self._refusal.error
        try:
            return await self._load(current.version)
        except LsvcrError as error:
            self._refusal = _Refusal(current, error, time.monotonic())
            raise

    async def _load(self, version: str) -> Recommender:
        return await Recommender.load(
            self._engine,
            self._registry / version,
            max_queue=self._max_queue,
            max_batch=self._max_batch,
            counts=self._counts,
        )

    def _swap(self, recommender: Recommender) -> None:
        self._current = recommender
        self._failure = None
