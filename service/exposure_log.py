"""The exposure log: what was shown to whom, and by which arm and model.

    lsvcr:exposures:N   streams, capped; each entry one JSON object in the field `exposure`

An answer only queues its exposure; a task of its own writes what has gathered. What can't be
written is tried again, so that an entry may be there twice: readers know it by its
`recommendation_id`. Where too much waits, exposures are dropped and counted.
"""

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Callable
from importlib import resources
from typing import Any

import msgspec

from service.errors import HistoryStoreError
from service.own_times import repeat
from service.store_connection import finish_within

MAX_WAITING = 20_000
EVERY_S = 0.25
_PAGE = 1000
_LOOKS = 8
_SCRIPT = "exposure_append.lua"

logger = logging.getLogger(__name__)


class ExposedTo(msgspec.Struct, frozen=True):
    """One experiment that the unit was in while it was answered."""

    experiment: str
    arm: str
    reason: str


class Exposure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer.

    Attributes:
        timestamp: Unix milliseconds.
        endpoint: `videos`, `comments` or `feed`.
        video_ids, comment_ids: What was shown, in order; a feed's comments video by video.
        scores: Of the videos, or of the comments where there are no videos; rounded.
        on_video: Under which video the comments stand.
        latency_ms: From the request's arrival.
        is_shadow: Computed beside another answer, and shown to nobody.
    """

    recommendation_id: str
    timestamp: int
    endpoint: str
    model_version: str
    source: str
    k: int
    latency_ms: float
    user_id: str | None = None
    unit_id: str | None = None
    experiments: tuple[ExposedTo, ...] = ()
    video_ids: tuple[str, ...] = ()
    comment_ids: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    on_video: str | None = None
    history_used: tuple[int, int] = (0, 0)
    degraded: tuple[str, ...] = ()
    is_shadow: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Exposure).decode


class ExposureLog:
    """Queues exposures and writes them in batches.

    Args:
        redis: As `connect_store` makes it.
        timeout_s: Most that a command may take.
        max_entries: Kept in all streams together, the newest.
        on_outcome: Called with `written` or `dropped` and how many.
    """

    def __init__(
        self,
        redis: Any,
        *,
        timeout_s: float,
        max_entries: int,
        shards: int = 4,
        on_outcome: Callable[[str, int], None] = lambda outcome, count: None,
    ) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._max_entries = max(1, max_entries // shards)
        self._shards = shards
        self._on_outcome = on_outcome
        self._waiting: deque[Exposure] = deque()
        self._writing = asyncio.Lock()
        script = resources.files("service").joinpath(_SCRIPT).read_bytes()
        self._append = redis.register_script(script)

    def record(self, exposure: Exposure) -> None:
        """Queue an exposure; costs the answer next to nothing."""
        if len(self._waiting) >= MAX_WAITING:
            self._on_outcome("dropped", 1)
        else:
            self._waiting.append(exposure)

    async def follow(self) -> None:
        """Write what has gathered, again and again."""
        await repeat(self._flush_or_wait, every_s=EVERY_S, name="writing exposures")

    async def flush(self) -> None:
        """Write all that waits now: what comes meanwhile is better written with more of it.

        Raises:
            HistoryStoreError: If the store failed; what isn't written waits on.
        """
        async with self._writing:
            left = len(self._waiting)
            while left:
                taken = [self._waiting.popleft() for _ in range(min(_PAGE, left))]
                left -= len(taken)
                try:
                    await self._write(taken)
                except HistoryStoreError:
                    self._waiting.extendleft(reversed(taken))
                    raise
                self._on_outcome("written", len(taken))

    async def close(self) -> None:
        """Write what waits, if the store lets us."""
        try:
            await self.flush()
        except HistoryStoreError as error:
            self._on_outcome("dropped", len(self._waiting))
            logger.warning("%d exposures are lost: %s", len(self._waiting), error)

    async def fetch_user(self, user_id: str) -> list[Exposure]:
        """What was shown to a user, the oldest first; walks through a stream of the log.

        Raises:
            HistoryStoreError: If the store failed.
        """
        return [exposure for _, exposure in await self._find(user_id)]

    async def erase_user(self, user_id: str) -> None:
        """Delete what was shown to a user; raises HistoryStoreError, then try again.

        Looks again until nothing more has come, `_LOOKS` times at most: other processes may hold
        exposures that they have not written yet.
        """
        await self._erase_written(user_id)
        for _ in range(_LOOKS):
            await asyncio.sleep(2 * EVERY_S)
            if not await self._erase_written(user_id):
                break

    async def _flush_or_wait(self) -> None:
        try:
            await self.flush()
        except HistoryStoreError as error:
            logger.warning("%d exposures wait: %s", len(self._waiting), error)

    async def _erase_written(self, user_id: str) -> int:
        """How many there were."""
        entry_ids = [entry_id for entry_id, _ in await self._find(user_id)]
        if entry_ids:
            erase = self._redis.xdel(self._stream(user_id), *entry_ids)
            await finish_within(erase, self._timeout_s)
        return len(entry_ids)

    async def _write(self, exposures: list[Exposure]) -> None:
        by_stream: dict[str, list[bytes]] = {}
        for exposure in exposures:
            owner = exposure.user_id or exposure.unit_id or exposure.recommendation_id
            by_stream.setdefault(self._stream(owner), []).append(_encode(exposure))
        for stream, entries in by_stream.items():
            call = self._append(keys=[stream], args=[self._max_entries, *entries])
            await finish_within(call, self._timeout_s)

    async def _find(self, user_id: str) -> list[tuple[bytes, Exposure]]:
        await self.flush()
        found: list[tuple[bytes, Exposure]] = []
        start = b"-"
        while True:
            read = self._redis.xrange(self._stream(user_id), min=start, count=_PAGE)
            page = await finish_within(read, self._timeout_s)
            decoded = ((entry_id, _decode(fields[b"exposure"])) for entry_id, fields in page)
            found += [pair for pair in decoded if user_id in (pair[1].user_id, pair[1].unit_id)]
            if len(page) < _PAGE:
                return found
            start = b"(" + page[-1][0]

    def _stream(self, owner: str) -> str:
        return f"lsvcr:exposures:{zlib.crc32(owner.encode()) % self._shards}"
