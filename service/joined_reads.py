"""Joins the reads that wait in one turn of the event loop into one command.

Most of a read's cost is the client library's work per command, so joining makes reads under load
more than ten times cheaper and changes nothing for a lone one. What comes while a command is under
way waits for its answer, as the next command, but not for long: a store may hang.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

_MAX_KEYS = 256
_MOST_WAIT_S = 0.002

ReadMany = Callable[[Sequence[str]], Awaitable[Sequence[bytes | None]]]


class JoinedReads:
    """Reads single keys through a function that reads many.

    Each read has a future of its own and the command a task of its own: a caller that is cancelled
    takes nobody's answer with it and leaves no half-read connection behind.

    Args:
        read_many: Returns the values of some keys, in their order.
    """

    def __init__(self, read_many: ReadMany) -> None:
        self._read_many = read_many
        self._waiting: dict[str, list[asyncio.Future[bytes | None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Handle | None = None

    def read(self, key: str) -> asyncio.Future[bytes | None]:
        """The value of a key, None where there is none; fails with what `read_many` raises."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._waiting:
            self._sending = (
                loop.call_later(_MOST_WAIT_S, self._send)
                if self._tasks
                else loop.call_soon(self._send)
            )
        self._waiting.setdefault(key, []).append(future)
        return future

    async def drain(self) -> None:
        """Wait for the commands under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, {}
        keys = list(waiting)
        for start in range(0, len(keys), _MAX_KEYS):
            chunk = keys[start : start + _MAX_KEYS]
            task = asyncio.ensure_future(self._answer(chunk, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._waiting and self._sending is not None:
            self._sending.cancel()
            self._send()

    async def _answer(
        self, keys: Sequence[str], waiting: dict[str, list[asyncio.Future[bytes | None]]]
    ) -> None:
        try:
            values = await self._read_many(keys)
        except BaseException as error:
            for future in (future for key in keys for future in waiting[key]):
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for key, value in zip(keys, values, strict=True):
            for future in waiting[key]:
                if not future.done():
                    future.set_result(value)
