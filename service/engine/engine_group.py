"""Several engine processes as one engine: one for each GPU, all with the same bundles.

A question goes to the engine at which this front-end has the fewest under way, so that a slow one
gets fewer. One that is lost gets none until it is back; what it had not answered another answers.

Shape suffixes: B users, S slots of either side, F numbers of a slot, D width.
"""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lsvcr.errors import LsvcrError
from service.engine.candidate_index import CandidateBatch, Kind
from service.engine.engine_client import RemoteBundle, RemoteEngine
from service.engine.first_look import FirstLook
from service.engine.warm_bundle import EncodedUsers
from service.errors import EngineFailedError, EngineLostError

LOOK_AGAIN_S = 0.5
"""How often to see whether an engine that is to open a bundle is still there."""

AnswerT = TypeVar("AnswerT")
Opening = asyncio.Task[RemoteBundle]

logger = logging.getLogger(__name__)


class EngineGroup:
    """Engine processes of one registry. Belongs to one event loop.

    Args:
        engines: At least one.
    """

    def __init__(self, engines: Sequence[RemoteEngine]) -> None:
        self._engines = engines

    async def open(self, version: str) -> "GroupBundle":
        """As `Engine.open`, in all engines; those that aren't there yet follow later."""
        opening = [asyncio.create_task(engine.open(version)) for engine in self._engines]
        try:
            while not self._are_enough(opening):
                waiting = [task for task in opening if not task.done()]
                await asyncio.wait(
                    waiting, timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED
                )
            if not any(_has_opened(task) for task in opening):
                opening[0].result()  # raises
        except BaseException:
            for task in opening:
                task.cancel()
            raise
        for number, task in enumerate(opening):
            task.add_done_callback(partial(_note_refusal, number))
        bundle = GroupBundle(self._engines, opening)
        loop = asyncio.get_running_loop()
        weakref.finalize(bundle, _cancel_in, loop, opening).atexit = False
        return bundle

    def problem(self, versions: Collection[str]) -> str | None:
        """As `Engine.problem`; None while one engine can."""
        problems = [engine.problem(versions) for engine in self._engines]
        return None if None in problems else problems[0]

    def lost(self, versions: Collection[str]) -> list[str]:
        """Which engines do not compute now."""
        return [
            f"engine {number}"
            for number, engine in enumerate(self._engines)
            if engine.problem(versions) is not None
        ]

    async def close(self) -> None:
        """As `Engine.close`."""
        for engine in self._engines:
            await engine.close()

    def _are_enough(self, opening: Sequence[Opening]) -> bool:
        """Whether one has opened the bundle, and nobody else that is there is still at it."""
        busy = [
            engine for engine, task in zip(self._engines, opening, strict=True) if not task.done()
        ]
        is_open = any(_has_opened(task) for task in opening)
        are_gone = (engine.problem(()) is not None for engine in busy)  # whatever they have open
        return not busy or (is_open and all(are_gone))


class GroupBundle:
    """A bundle that several engine processes have opened, or are opening.

    Args:
        engines: All of the group.
        opening: For each the task that opens the bundle there; one of them has.
    """

    def __init__(self, engines: Sequence[RemoteEngine], opening: Sequence[Opening]) -> None:
        self._engines = engines
        self._opening = opening
        self._turn = 0
        first = next(task.result() for task in opening if _has_opened(task))
        self.bundle = first.bundle
        self.sizes = first.sizes
        self.in_flight = first.in_flight * len(engines)
        self._versions = {first.bundle.manifest.version}
        self._description = first.describe()

    async def encode(
        self, history_BSF: NDArray[np.int32], look: FirstLook, *, until_s: float
    ) -> EncodedUsers:
        """As `OpenBundle.encode`."""
        return await self._ask(lambda opened: opened.encode(history_BSF, look, until_s=until_s))

    async def search(
        self, kind: Kind, query_BD: NDArray[np.float32], counts: Sequence[int]
    ) -> CandidateBatch:
        """As `OpenBundle.search`."""
        return await self._ask(lambda opened: opened.search(kind, query_BD, counts))

    async def set_prior(self, logit_V: NDArray[np.float32]) -> None:
        """As `OpenBundle.set_prior`, in all engines that can; one that is lost is told later."""
        told = (self._opening[number].result().set_prior(logit_V) for number in self._able())
        for outcome in await asyncio.gather(*told, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, EngineLostError):
                raise outcome

    def describe(self) -> dict[str, object]:
        """Where and how it runs, as the first engine said, and in how many it does."""
        return {**self._description, "engines": len(self._able())}

    async def _ask(self, ask: Callable[[RemoteBundle], Awaitable[AnswerT]]) -> AnswerT:
        """Ask the least busy engine, and another one where it is lost meanwhile, or fails.

        Raises:
            EngineLostError, EngineFailedError: As the last one did, if none is left.
        """
        tried: set[int] = set()
        failure: LsvcrError = EngineLostError("no engine process is there")
        while left := self._able() - tried:
            chosen = min(left, key=self._order)
            self._turn = chosen + 1
            try:
                return await ask(self._opening[chosen].result())
            except (EngineLostError, EngineFailedError) as error:
                tried.add(chosen)
                failure = error
        raise failure

    def _able(self) -> set[int]:
        """The engines that can answer now."""
        return {
            number
            for number, (engine, task) in enumerate(zip(self._engines, self._opening, strict=True))
            if _has_opened(task) and engine.problem(self._versions) is None
        }

    def _order(self, number: int) -> tuple[int, int]:
        """Fewest questions under way; among equals they take turns."""
        return self._engines[number].under_way, (number - self._turn) % len(self._engines)


def _has_opened(task: Opening) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _note_refusal(number: int, task: Opening) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("engine %d does not open a bundle that others have: %s", number, error)


def _cancel_in(loop: asyncio.AbstractEventLoop, opening: Sequence[Opening]) -> None:
    """Open no further a bundle that nobody wants any more; called from any thread."""
    with contextlib.suppress(RuntimeError):  # the loop has ended
        for task in opening:
            loop.call_soon_threadsafe(task.cancel)
