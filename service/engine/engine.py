"""Where encoders and indexes run: the seam between ranking and the hardware.

    Engine       opens bundles            InlineEngine here, RemoteEngine in `engine_client.py`,
                                          EngineGroup, of several, in `engine_group.py`
    OpenBundle   encodes and searches     LocalBundle here, RemoteBundle and GroupBundle there

Ranking, candidates' vectors and catalogue stay with whoever asks; only inputs of the encoder,
queries of an index and, where an index takes it, the popularity prior cross the seam, as plain
arrays, whole batches at a time.

Shape suffixes: B users, S slots of either side, F numbers of a slot, N candidates, V video rows,
D width.
"""

import asyncio
import logging
import math
import time
import weakref
from collections.abc import Awaitable, Collection, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import Bundle, bundle_being_checked, map_bundle
from lsvcr.errors import BundleError, LsvcrError
from lsvcr.history import HistoryBatch
from service.engine.bundle_opening import Device, open_warm
from service.engine.candidate_index import CandidateBatch, IndexSize, Kind
from service.engine.check_process import check_apart
from service.engine.first_look import FirstLook
from service.engine.freed_memory import give_back_after
from service.engine.steps import ResultT, in_turns
from service.engine.warm_bundle import EncodedUsers, WarmBundle
from service.errors import EngineFailedError

PROVE_AGAIN_S = 1.0

logger = logging.getLogger(__name__)


class OpenBundle(Protocol):
    """One bundle's encoder and indexes, checked and warm.

    Where the engine itself is gone, for the moment, questions raise `EngineLostError`; where the
    hardware or its runtime fails, `EngineFailedError`.

    Attributes:
        bundle: What ranking needs of it; read where the ranking runs.
        sizes: Of the indexes.
        in_flight: Batches worth having under way at a time.
    """

    bundle: Bundle
    sizes: dict[Kind, IndexSize]
    in_flight: int

    async def encode(
        self, history_BSF: NDArray[np.int32], look: FirstLook, *, until_s: float
    ) -> EncodedUsers:
        """Encode B >= 1 users and fetch candidates for each.

        Args:
            history_BSF: The encoder's inputs, as `HistoryBatch.packed` lays them out.
            look: What is asked about them.
            until_s: `time.monotonic()` value after which nobody waits for any of them.
        """

    async def search(
        self, kind: Kind, query_BD: NDArray[np.float32], counts: Sequence[int]
    ) -> CandidateBatch:
        """Find each query's nearest rows of one kind."""

    async def set_prior(self, logit_V: NDArray[np.float32]) -> None:
        """Choose videos by this from now on, whoever asks; only where their index takes parts.

        To be repeated: an engine process that is new has none. What it has already costs little.
        """

    def describe(self) -> dict[str, object]:
        """Where and how it runs."""


class Engine(Protocol):
    """Opens bundles of one registry."""

    async def open(self, version: str) -> OpenBundle:
        """Load, check and warm up a bundle; it closes once its last user has let go of it.

        Raises:
            BundleError: If anything about the bundle is wrong.
            NotReadyError: If `cuda` is wanted and can't be had.
        """

    def problem(self, versions: Collection[str]) -> str | None:
        """Why nothing can be computed now with some of these, all open; None if it can."""

    def lost(self, versions: Collection[str]) -> list[str]:
        """What doesn't compute with them now, while the rest goes on."""

    async def close(self) -> None:
        """End; what is open answers no more."""


class LocalBundle:
    """A bundle that is computed with in this process.

    Args:
        warm: The bundle with its graphs and indexes.
        cpu_reason: Why it runs on the CPU, where a GPU had been welcome.

    Attributes:
        problem: Why it computes nothing any more, not even the golden inputs; None if it does.
    """

    def __init__(self, warm: WarmBundle, *, wanted: Device, cpu_reason: str | None) -> None:
        self._warm = warm
        self._wanted = wanted
        self._cpu_reason = cpu_reason
        self.bundle = warm.bundle
        self.in_flight = warm.in_flight
        self.sizes: dict[Kind, IndexSize] = {
            "video": warm.video_index.extent,
            "comment": warm.comment_index.extent,
        }
        self._logit_V: NDArray[np.float32] | None = None
        self.problem: str | None = None
        self._proving: asyncio.Task[None] | None = None

    async def encode(
        self, history_BSF: NDArray[np.int32], look: FirstLook, *, until_s: float
    ) -> EncodedUsers:
        """As `OpenBundle.encode`; what is begun is finished."""
        steps = self._warm.encode(HistoryBatch.unpacked(history_BSF), look)
        return await self._expect_success(in_turns(steps))

    async def search(
        self, kind: Kind, query_BD: NDArray[np.float32], counts: Sequence[int]
    ) -> CandidateBatch:
        """As `OpenBundle.search`."""
        return await self._expect_success(in_turns(self._warm.search(kind, query_BD, counts)))

    async def set_prior(self, logit_V: NDArray[np.float32]) -> None:
        """As `OpenBundle.set_prior`."""
        if logit_V is self._logit_V:
            return
        telling = asyncio.to_thread(self._warm.video_index.set_part, logit_V)
        await self._expect_success(telling)  # which takes milliseconds
        self._logit_V = logit_V

    async def reach(self) -> None:
        """Come back when whatever computes has had a turn; never, where it is stuck."""
        await in_turns(self._warm.reach())

    def describe(self) -> dict[str, object]:
        """Where and how it runs."""
        return {
            "device_wanted": self._wanted,
            **self._warm.encoder.describe(),
            "cpu_reason": self._cpu_reason,
            "index_device": self._warm.video_index.device,
        }

    async def _expect_success(self, computing: Awaitable[ResultT]) -> ResultT:
        try:
            return await computing
        except LsvcrError:
            raise
        except Exception as error:  # the runtime and each driver have classes of their own
            logger.warning("the engine failed", exc_info=error)
            if self._proving is None or self._proving.done():
                self._proving = asyncio.create_task(_prove(weakref.ref(self)))
            raise EngineFailedError(f"the engine failed: {type(error).__name__}") from error

    async def is_sound(self) -> bool:
        """Whether it computes one golden history; `problem` tells since."""
        history = self.bundle.golden.history.take(slice(1))
        try:
            look = FirstLook([1], [0.0], with_states=True)
            await self.encode(history.packed(), look, until_s=math.inf)
        except EngineFailedError:
            self.problem = "the engine fails even at the golden inputs"
        else:
            self.problem = None
        return self.problem is None

    def close(self) -> None:
        """Prove nothing any more."""
        if self._proving is not None:
            self._proving.cancel()


async def _prove(reference: "weakref.ref[LocalBundle]") -> None:
    """Try a bundle that failed again and again until it computes, or nobody wants it any more."""
    while (bundle := reference()) is not None and not await bundle.is_sound():
        del bundle
        await asyncio.sleep(PROVE_AGAIN_S)


class InlineEngine:
    """Computes in this process.

    Args:
        registry: Folder of bundles.
        device: Where encoders run; `auto` takes a GPU if one works.
        max_batch: Users encoded together, at most: what is warmed up.
    """

    def __init__(self, registry: Path, *, device: Device, max_batch: int) -> None:
        self._registry = registry
        self._device = device
        self._max_batch = max_batch
        self._open: weakref.WeakSet[LocalBundle] = weakref.WeakSet()

    async def open(self, version: str) -> LocalBundle:
        """As `Engine.open`; takes seconds, in a thread."""
        started_s = time.perf_counter()
        warm, cpu_reason = await asyncio.to_thread(self._load, version)
        device, took_s = warm.encoder.device, time.perf_counter() - started_s
        logger.info("bundle %s is warm on %s after %.1f s", version, device, took_s)
        opened = LocalBundle(warm, wanted=self._device, cpu_reason=cpu_reason)
        self._open.add(opened)
        give_back_after(opened, warm)
        return opened

    def problem(self, versions: Collection[str]) -> str | None:
        """As `Engine.problem`: what a bundle failed with that fails at everything."""
        wanted = (one for one in self._open if one.bundle.manifest.version in versions)
        return next((one.problem for one in wanted if one.problem is not None), None)

    def lost(self, versions: Collection[str]) -> list[str]:
        """There is nothing beside this process."""
        return []

    async def close(self) -> None:
        """Bundles go with their users."""
        for opened in self._open:
            opened.close()

    def _load(self, version: str) -> tuple[WarmBundle, str | None]:
        folder = self._registry / version
        if self._open:  # somebody is being answered, who must not notice
            check_apart(folder)
            return self._open_warm(map_bundle(folder), version)
        with bundle_being_checked(folder) as bundle:
            return self._open_warm(bundle, version)

    def _open_warm(self, bundle: Bundle, version: str) -> tuple[WarmBundle, str | None]:
        if bundle.manifest.version != version:
            raise BundleError(f"folder {version!r} holds version {bundle.manifest.version!r}")
        return open_warm(bundle, self._device, max_batch=self._max_batch)
