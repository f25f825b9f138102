"""The other end of `engine_client.py`: opens bundles and computes for all front-ends together.

Shape suffixes: B users, A of them whose comments are asked for, S slots of either side, F numbers
of a slot.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lsvcr.errors import LsvcrError
from service.engine.batching import Batcher
from service.engine.candidate_index import Kind, widened
from service.engine.engine import InlineEngine, LocalBundle, OpenBundle
from service.engine.engine_messages import (
    Alive,
    Beat,
    Encode,
    Encoded,
    EncodedComments,
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
    join_histories,
    pack_error,
    pack_found,
    pack_tastes,
    pack_users,
)
from service.engine.first_look import CommentTastes, FirstLook
from service.errors import EngineLostError

FRAMES_TOGETHER, FRAMES_TOGETHER_ON_GPU = 16, 64
"""Questions of front-ends, each for several users, that are computed as one batch at most. A CPU
takes as much longer as there are more; a GPU takes little more for many than for few."""
LEAST_BESIDE = 128
"""Users of a batch that begins beside one that is being encoded: fewer wait for its end, and for
others to join them, as a GPU takes nearly as long for one as for many."""
SEARCHES_UNDER_WAY = 2
"""One that runs, and one that waits for its end: what comes meanwhile is searched for together."""
MAX_QUEUE = 4096

logger = logging.getLogger(__name__)


class EngineServer:
    """Serves an engine's bundles over a Unix socket. Belongs to one event loop.

    A bundle stays open while some connection wants it.

    Attributes:
        has_broken: Set once the engine fails at everything: another process may do better.
    """

    def __init__(self, engine: InlineEngine) -> None:
        self._engine = engine
        self._served: dict[str, asyncio.Task[_ServedBundle]] = {}
        self._wanted: dict[Frames, set[str]] = {}
        self._under_way: set[asyncio.Future[Any]] = set()
        self.has_broken = asyncio.Event()

    async def listen(self, socket: Path) -> asyncio.Server:
        """Answer whoever connects, from now on."""
        socket.unlink(missing_ok=True)  # a predecessor that was killed left it
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(
            lambda: Frames(Question, self._receive, self._lose), str(socket)
        )

    async def drain(self) -> None:
        """Wait for the answers under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await asyncio.sleep(0)  # what was sent in this turn leaves

    def _receive(self, frames: Frames, question: Question) -> None:
        if isinstance(question, Release):
            self._wanted.get(frames, set()).discard(question.version)
            self._close_unwanted()
            return
        if isinstance(question, Open):
            self._wanted.setdefault(frames, set()).add(question.version)
        try:
            answering = self._begin(question)
        except LsvcrError as error:
            frames.send(pack_error(question.number, error))
            return
        self._under_way.add(answering)
        answering.add_done_callback(partial(self._reply, frames, question))

    def _lose(self, frames: Frames) -> None:
        self._wanted.pop(frames, None)
        self._close_unwanted()

    def _close_unwanted(self) -> None:
        wanted = set().union(*self._wanted.values())
        for version in self._served.keys() - wanted:
            logger.info("bundle %s is wanted no more", version)
            del self._served[version]  # what is being computed with it is finished

    def _begin(self, question: Open | Encode | Search | Prior | Beat) -> asyncio.Future[Any]:
        """Have a question answered; most are for an encoder, and cost no task of their own."""
        if isinstance(question, Encode):
            encodings, users = self._find(question.version).encodings, len(question.look.counts)
            return encodings.put(question, question.until_s, size=users)
        if isinstance(question, Search):
            searches = self._find(question.version).searches[question.kind]
            return searches.put(question, math.inf)
        return asyncio.create_task(self._compute(question))

    def _reply(
        self,
        frames: Frames,
        question: Open | Encode | Search | Prior | Beat,
        answering: asyncio.Future[Any],
    ) -> None:
        self._under_way.discard(answering)
        if answering.cancelled():
            return
        reply: Reply
        if (error := answering.exception()) is not None:
            self._look_whether_broken()
            reply = pack_error(question.number, error)
            if not isinstance(error, LsvcrError):
                logger.warning("%s failed", type(question).__name__, exc_info=error)
        elif isinstance(question, Encode | Search):
            reply = answering.result().answer
        else:
            reply = answering.result()
        with contextlib.suppress(EngineLostError):  # who asked has gone
            frames.send(reply)

    def _look_whether_broken(self) -> None:
        if (problem := self._engine.problem(self._served.keys())) is not None:
            logger.error("this engine ends: %s", problem)
            self.has_broken.set()

    async def _compute(self, question: Open | Prior | Beat) -> Opened | PriorKnown | Alive:
        if isinstance(question, Beat):
            await self._reach_all()
            self._look_whether_broken()
            return Alive(question.number)
        number, version = question.number, question.version
        if isinstance(question, Open):
            opened = (await self._open(version)).opened
            sizes = {kind: astuple(size) for kind, size in opened.sizes.items()}
            return Opened(number, sizes, opened.describe())
        return PriorKnown(number, await self._find(version).set_prior(question))

    def _find(self, version: str) -> "_ServedBundle":
        """A bundle that has been opened, as whoever asks it was told."""
        opening = self._served.get(version)
        if opening is None or not opening.done():
            raise EngineLostError(f"bundle {version!r} is not open in this engine")
        return opening.result()

    async def _reach_all(self) -> None:
        """Let whatever computes have a turn, so that a stuck thread shows."""
        for opening in [*self._served.values()]:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                await opening.result().opened.reach()

    async def _open(self, version: str) -> "_ServedBundle":
        """Open a version once for all who want it; one that was refused is tried again."""
        task = self._served.get(version)
        if task is None:
            task = asyncio.create_task(self._open_new(version))
            self._served[version] = task
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._served.get(version) is task:
                del self._served[version]
            raise

    async def _open_new(self, version: str) -> "_ServedBundle":
        opened = await self._engine.open(version)
        on_gpu = opened.describe()["device"] == "cuda"
        together = FRAMES_TOGETHER_ON_GPU if on_gpu else FRAMES_TOGETHER
        encodings: Batcher[Encode, Encoded] = Batcher(
            partial(encode_together, opened),
            max_queue=MAX_QUEUE,
            max_batch=together,
            sent_together=together,  # what goes to one front-end leaves at once
            in_flight=opened.in_flight,
            least_beside=LEAST_BESIDE,
        )
        searches: dict[Kind, Batcher[Search, Found]] = {
            kind: Batcher(
                partial(search_together, opened),
                max_queue=MAX_QUEUE,
                max_batch=together if on_gpu else 1,  # an index of a CPU takes as long for each
                sent_together=together,
                in_flight=SEARCHES_UNDER_WAY,
            )
            for kind in opened.sizes
        }
        return _ServedBundle(opened, encodings, searches)


@dataclass(slots=True)
class _ServedBundle:
    """A bundle, and the prior that its candidates are chosen by: the last that anybody told."""

    opened: LocalBundle
    encodings: Batcher[Encode, Encoded]
    searches: dict[Kind, Batcher[Search, Found]]
    prior_digest: bytes = b""

    async def set_prior(self, question: Prior) -> bool:
        """Take a prior that is here; whether it is the one asked for."""
        if question.digest != self.prior_digest and question.logit_V is not None:
            await self.opened.set_prior(question.logit_V)
            self.prior_digest = question.digest
        return question.digest == self.prior_digest


async def encode_together(
    opened: OpenBundle, questions: Sequence[Encode]
) -> list[Encoded | Exception]:
    """Encode the users of several questions as one batch; each gets what it would get alone."""
    history_BSF = join_histories([question.history_BSF for question in questions])
    encoded = await opened.encode(
        history_BSF,
        FirstLook.join([question.look for question in questions]),
        until_s=max(question.until_s for question in questions),
    )
    user_BX, slots = pack_users(encoded), encoded.encoding.video_share_BI.shape[1]
    state_BSD, found = encoded.encoding.comment_state_BJD, encoded.candidates
    users = _shares([len(question.look.counts) for question in questions])
    return [
        Encoded(
            question.number,
            user_BX[some],
            slots,
            state_BSD[some] if question.look.with_states else state_BSD[some, :0],
            found.error,
            found.with_parts,
            comments,
        )
        for question, some, comments in zip(
            questions, users, _comments_of(questions, encoded.comments), strict=True
        )
    ]


def _comments_of(
    questions: Sequence[Encode], tastes: CommentTastes | None
) -> list[EncodedComments | None]:
    """For each question what it asked about comments."""
    if tastes is None:
        return [None] * len(questions)
    user_AX, found = pack_tastes(tastes), tastes.candidates
    looks = [question.look.comments for question in questions]
    users = _shares([0 if look is None else len(look.counts) for look in looks])
    return [
        None if look is None else EncodedComments(user_AX[some], found.error, found.with_parts)
        for look, some in zip(looks, users, strict=True)
    ]


async def search_together(
    opened: OpenBundle, questions: Sequence[Search]
) -> list[Found | Exception]:
    """Search for several questions about items of one kind at once, likewise."""
    width = max(question.query_BD.shape[1] for question in questions)
    found = await opened.search(
        questions[0].kind,
        np.concatenate([widened(question.query_BD, width, 0) for question in questions]),
        [count for question in questions for count in question.counts],
    )
    found_BX = pack_found(found)
    shares = _shares([len(question.counts) for question in questions])
    return [
        Found(question.number, found_BX[queries], found.error, found.with_parts)
        for question, queries in zip(questions, shares, strict=True)
    ]


def _shares(sizes: Sequence[int]) -> list[slice]:
    """Where each question's users are in the batch that all of them make."""
    return [slice(start, end) for start, end in pairwise([0, *accumulate(sizes)])]
