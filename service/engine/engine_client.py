"""The engine as a front-end sees it where it is a process of its own: asked over a Unix socket.

When that process dies, all that was asked of it fails with `EngineLostError` at once, `problem`
tells, and the client connects again and again until another one has opened the same bundles. The
same holds when it gives no sign of life for some beats, until it answers again.

Shape suffixes: B users, S slots of either side, F numbers of a slot, D width.
"""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import Bundle, map_bundle
from lsvcr.errors import LsvcrError
from service.engine.candidate_index import CandidateBatch, Kind
from service.engine.engine_messages import (
    Beat,
    Encode,
    Encoded,
    Failed,
    Found,
    Frames,
    Open,
    Opened,
    Prior,
    PriorKnown,
    Question,
    Release,
    Reply,
    Search,
    unpack_error,
    unpack_found,
    unpack_sizes,
    unpack_users,
)
from service.engine.first_look import FirstLook
from service.engine.freed_memory import give_back_after
from service.engine.warm_bundle import EncodedUsers
from service.errors import EngineLostError

IN_FLIGHT = 4
"""Batches of one bundle that a front-end has under way at a time."""
MOST_WAIT_S = 10.0
"""After so long without its answer a question is given up, though the engine lives."""
BEAT_S, SHORTEST_BEAT_S = 0.1, 0.02
"""How often the engine is asked for a sign of life."""
MOST_MISSED = 4
"""After so many beats without one the engine counts as lost."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.1
FIRST_REFUSED_S, LONGEST_REFUSED_S = 0.2, 5.0
"""After so long a new engine is asked again for what it refused: there may have been no memory."""

ReplyT = TypeVar("ReplyT", bound=Reply)

logger = logging.getLogger(__name__)


class _Asked(NamedTuple):
    question: Question
    future: asyncio.Future[Any]
    asked_s: float


class RemoteEngine:
    """One engine process. Belongs to one event loop.

    Args:
        registry: Folder of bundles, the engine's too.
        socket: Where the engine listens, or will.
        beat_s: After `MOST_MISSED` times as long without a sign of life the engine counts as lost:
            to be much shorter, together, than callers wait.
    """

    def __init__(self, registry: Path, socket: Path, *, beat_s: float = BEAT_S) -> None:
        self._registry = registry
        self._socket = socket
        self._beat_s = beat_s
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._replies = 0
        self._is_silent = False
        self._holders: Counter[str] = Counter()
        self._open_there: set[str] = set()
        self._missing: set[str] = set()
        """Versions that were open in an engine that died, and are not yet in the next one."""
        self._frames: Frames | None = None
        self._changed = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None

    async def open(self, version: str) -> "RemoteBundle":
        """As `Engine.open`; waits for an engine that isn't there yet."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._stay_connected())
        self._holders[version] += 1
        try:
            opened = await self._open(version)
            folder = self._registry / version
            bundle = await asyncio.to_thread(map_bundle, folder)
        except BaseException:
            self._let_go(version)
            raise
        remote = RemoteBundle(self, bundle, opened)
        loop = asyncio.get_running_loop()
        weakref.finalize(remote, _call_in, loop, self._let_go, version).atexit = False
        give_back_after(remote, bundle)
        return remote

    def problem(self, versions: Collection[str]) -> str | None:
        """As `Engine.problem`; what an old user of another version holds open doesn't count."""
        if self._frames is None or not self._missing.isdisjoint(versions):
            return "the engine process ended; another one is starting"
        return "the engine process does not answer" if self._is_silent else None

    @property
    def under_way(self) -> int:
        """Questions that it hasn't answered yet."""
        return len(self._asked)

    def lost(self, versions: Collection[str]) -> list[str]:
        """As `Engine.lost`: where the only engine is lost, `problem` tells."""
        return []

    async def close(self) -> None:
        """Disconnect; whoever still waits gets EngineLostError."""
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        if self._frames is not None:
            self._frames.close()
            self._lose(self._frames)

    async def ask(self, question: Callable[[int], Question], kind: type[ReplyT]) -> ReplyT:
        """Send what `question` makes of a number, and wait for its reply, of type `kind`.

        Raises:
            EngineLostError: If the engine is gone or silent, or gets so before it has answered, or
                takes longer than `MOST_WAIT_S`, give or take a beat, for what is soon done.
            LsvcrError: As the engine answered.
        """
        number = next(self._numbers)
        loop = asyncio.get_running_loop()
        asked = _Asked(question(number), loop.create_future(), loop.time())
        if self._frames is None:
            raise EngineLostError("the engine is not connected")
        if self._is_silent and not _may_take_long(asked):
            raise EngineLostError("the engine does not answer")
        self._asked[number] = asked
        try:
            self._frames.send(asked.question)
            reply: ReplyT = await asked.future
            return reply
        finally:
            del self._asked[number]

    async def _open(self, version: str) -> Opened:
        """Ask until an engine has opened a version, or refused to."""
        while True:
            while self._frames is None:
                self._changed.clear()
                await self._changed.wait()
            with contextlib.suppress(EngineLostError):
                return await self._open_now(version)

    async def _open_now(self, version: str) -> Opened:
        opened = await self.ask(lambda number: Open(number, version), Opened)
        self._open_there.add(version)
        self._missing.discard(version)
        return opened

    def _let_go(self, version: str) -> None:
        self._holders[version] -= 1
        if self._holders[version] == 0:
            del self._holders[version]
            self._missing.discard(version)
            self._open_there.discard(version)
            if self._frames is not None:
                self._frames.send(Release(version))

    async def _stay_connected(self) -> None:
        """Connect again and again, and have opened what the last engine had open."""
        pause_s = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            frames = None
            with contextlib.suppress(OSError):
                _, frames = await loop.create_unix_connection(
                    lambda: Frames(Reply, self._receive, self._lose), str(self._socket)
                )
            if frames is None or not frames.is_open:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            self._frames = frames
            self._changed.set()
            opening = asyncio.create_task(self._open_missing())
            try:
                await self._watch(frames)
            finally:
                opening.cancel()

    async def _open_missing(self) -> None:
        """Have a new engine open what the last one had, however often it refuses."""
        pause_s = FIRST_REFUSED_S
        while self._missing:
            for version in sorted(self._missing):
                try:
                    await self._open_now(version)
                except EngineLostError:
                    return  # an engine that is dying may accept us and be gone
                except Exception as error:
                    logger.error("the new engine refuses %s: %s", version, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_REFUSED_S)

    async def _watch(self, frames: Frames) -> None:
        """Ask for signs of life while a connection lasts.

        Counts turns of this loop instead of seconds, as the loop itself may have had no time.
        """
        missed = 0
        while self._frames is frames:
            if missed == 0:
                frames.send(Beat(next(self._numbers)))
            replies = self._replies
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._beat_s)
            missed = missed + 1 if self._replies == replies else 0
            asked_before_s = asyncio.get_running_loop().time() - MOST_WAIT_S
            self._fail([one for one in self._soon_done() if one.asked_s <= asked_before_s])
            if missed == MOST_MISSED and not self._is_silent:
                logger.warning("the engine gives no sign of life")
                self._is_silent = True
                self._fail(self._soon_done())

    def _soon_done(self) -> list[_Asked]:
        return [one for one in self._asked.values() if not _may_take_long(one)]

    def _receive(self, frames: Frames, reply: Reply) -> None:
        self._replies += 1
        self._is_silent = False
        asked = self._asked.get(reply.number)
        if asked is None or asked.future.done():
            return  # nobody waits any more
        if isinstance(reply, Failed):
            asked.future.set_exception(unpack_error(reply))
        else:
            asked.future.set_result(reply)

    def _lose(self, frames: Frames) -> None:
        if frames is not self._frames:
            return
        self._frames = None
        self._missing |= self._open_there
        self._open_there.clear()
        self._is_silent = False
        self._changed.set()
        self._fail(self._asked.values())

    def _fail(self, lost: Iterable[_Asked]) -> None:
        for asked in lost:
            if not asked.future.done():
                asked.future.set_exception(EngineLostError("the engine gave no answer"))


class RemoteBundle:
    """A bundle that an engine process has opened.

    Args:
        bundle: Read here, for ranking; the engine has verified its files.
    """

    in_flight = IN_FLIGHT

    def __init__(self, engine: RemoteEngine, bundle: Bundle, opened: Opened) -> None:
        self._engine = engine
        self._version = bundle.manifest.version
        self.bundle = bundle
        self.sizes = unpack_sizes(opened)
        self._logit_V: NDArray[np.float32] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._description = opened.description

    async def encode(
        self, history_BSF: NDArray[np.int32], look: FirstLook, *, until_s: float
    ) -> EncodedUsers:
        """As `OpenBundle.encode`."""
        reply = await self._engine.ask(
            lambda number: Encode(number, self._version, until_s, look, history_BSF), Encoded
        )
        if self._logit_V is not None and any(look.weights) and not reply.with_parts:
            self._tell_again(self._logit_V)
        width, slots = self.bundle.manifest.width, history_BSF.shape[1]
        return unpack_users(reply, look, width=width, slots=slots, sizes=self.sizes)

    async def search(
        self, kind: Kind, query_BD: NDArray[np.float32], counts: Sequence[int]
    ) -> CandidateBatch:
        """As `OpenBundle.search`."""
        reply = await self._engine.ask(
            lambda number: Search(number, self._version, kind, list(counts), query_BD), Found
        )
        found = reply.found_BX, reply.error, reply.with_parts
        return unpack_found(*found, counts, self.sizes[kind].rows)

    async def set_prior(self, logit_V: NDArray[np.float32]) -> None:
        """As `OpenBundle.set_prior`; all front-ends have the same, which is sent once."""
        digest = await asyncio.to_thread(_digest, logit_V)

        async def tell(content: NDArray[np.float32] | None) -> bool:
            reply = await self._engine.ask(
                lambda number: Prior(number, self._version, digest, content), PriorKnown
            )
            return reply.is_known

        if not await tell(None):
            await tell(logit_V)
        self._logit_V = logit_V

    def _tell_again(self, logit_V: NDArray[np.float32]) -> None:
        """Tell an engine that is new what the one before it knew."""
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_quietly(logit_V))

    async def _tell_quietly(self, logit_V: NDArray[np.float32]) -> None:
        with contextlib.suppress(LsvcrError):  # it shows again with the next answer
            await self.set_prior(logit_V)

    def describe(self) -> dict[str, object]:
        """Where and how it runs, as the engine said."""
        return self._description


def _digest(array: NDArray[np.float32]) -> bytes:
    return hashlib.blake2b(array.data, digest_size=16).digest()


def _may_take_long(asked: _Asked) -> bool:
    """Whether an engine that gives no sign of life meanwhile may be at work on this."""
    return isinstance(asked.question, Open)


def _call_in(
    loop: asyncio.AbstractEventLoop, function: Callable[[str], None], argument: str
) -> None:
    """Call in a loop's own thread: garbage may be found in any, also when the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, argument)
