"""Deals connections out to worker processes, each to the one that has the fewest.

Left to the kernel, a worker's share is a matter of luck: of sockets that all listen on, whoever is
awake takes most; of sockets of their own, one of fourteen has a third more than its share and
everybody's tail is that worker's (docs/decisions/0085). So the parent process accepts, and hands
each connection over by a Unix socket; how many of them have ended workers tell it now and then.
"""

import array
import asyncio
import contextlib
import os
import selectors
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog
import uvloop

LOOP = "service.dealt_connections:Loop"
"""As uvicorn is told of it."""
BACKLOG = 2048
_AT_ONCE = 16
"""Connections that are dealt, or taken, before anything else gets a turn."""
_MOST_UNTAKEN = 64
"""A worker that has not taken so many gets no more: it hangs, or has no time."""
_UNTAKEN_ALIKE = 16
"""Workers are compared by what they have not taken yet in steps of so many: a burst is dealt out
evenly, and one that hangs soon gets nothing more."""
_UNREPORTED = _UNTAKEN_ALIKE // 2
"""Connections taken that a worker need not report at once: the parent would wake up for each."""
_SWEEP_S = 0.1
_PAUSE_S = 0.1
"""After which connections are accepted again where there was no file handle left for one."""
_FD_BYTES = struct.calcsize("i")
_REPORT = struct.Struct("=QQ")
"""A worker's totals: connections that it has taken, and those of them that have ended."""

logger = structlog.get_logger(__name__)


class Channel(socket.socket):
    """What a worker gets connections from: sent to another process it is one of that process.

    Args:
        path: The dealer's Unix socket.
    """

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is sent to another process: not connected yet, as it takes nothing so far."""
        return Channel, (self.path,)


class Loop(uvloop.Loop):
    """The event loop of a worker: a server may have a `Channel` for its socket."""

    async def create_server(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        """As asyncio's."""
        if isinstance(options.get("sock"), Channel):
            return DealtConnections(self, protocol_factory, options["sock"], options.get("ssl"))
        return await super().create_server(protocol_factory, *args, **options)


class DealtConnections:
    """A server of what a dealer hands over, from now on until it is closed.

    Belongs to one event loop, and does what uvicorn asks of a server.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        channel: Channel,
        context: ssl.SSLContext | None,
    ) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._channel = channel
        self._context = context
        self._taken = self._ended = 0
        self._reported = 0, 0
        self._beginning: set[asyncio.Task[None]] = set()
        self._open: list[asyncio.BaseTransport] = []
        channel.connect(channel.path)
        channel.setblocking(False)
        loop.add_reader(channel.fileno(), self._take)
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep)

    def close(self) -> None:
        """Take no more; what is open goes on."""
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel.fileno())
            self._sweeping.cancel()
            self._channel.close()

    async def wait_closed(self) -> None:
        """Nothing is waited for: whoever made the protocols knows what is open."""

    def _take(self) -> None:
        """Take what was handed over."""
        for _ in range(_AT_ONCE):
            try:
                content, ancillary, _, _ = self._channel.recvmsg(
                    1, socket.CMSG_LEN(_FD_BYTES), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                break
            except OSError:
                content, ancillary = b"", []
            if not content:  # the parent has ended, and so will this process
                self.close()
                return
            self._taken += 1
            if not ancillary:
                logger.warning("no file handle left for a connection")
                self._ended += 1
                continue
            (handle,) = array.array("i", ancillary[0][2])
            beginning = self._loop.create_task(self._begin(socket.socket(fileno=handle)))
            self._beginning.add(beginning)
            beginning.add_done_callback(self._beginning.discard)
        if self._taken - self._reported[0] >= _UNREPORTED:
            self._report()

    async def _begin(self, connection: socket.socket) -> None:
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._protocol_factory, connection, ssl=self._context
            )
        except OSError:  # it has ended already, or there was no handshake
            connection.close()
            self._ended += 1
        else:
            self._open.append(transport)

    def _sweep(self) -> None:
        """Look which connections have ended: as often as they do would be too often."""
        still_open = [one for one in self._open if not one.is_closing()]
        self._ended += len(self._open) - len(still_open)
        self._open = still_open
        self._report()
        self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)

    def _report(self) -> None:
        totals = self._taken, self._ended
        if totals != self._reported:
            with contextlib.suppress(OSError):  # totals: the next report says as much
                self._channel.send(_REPORT.pack(*totals))
                self._reported = totals


class _Worker:
    """What the dealer knows of a worker."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.dealt = self.taken = self.ended = 0

    @property
    def untaken(self) -> int:
        return self.dealt - self.taken

    def give(self, connection: socket.socket) -> bool:
        """Hand a connection over; false where the worker has just ended."""
        handle = array.array("i", [connection.fileno()])
        try:
            self._channel.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handle)])
        except OSError:
            return False
        self.dealt += 1
        return True

    def burden(self) -> tuple[int, int]:
        """The least gets the next connection."""
        return self.untaken // _UNTAKEN_ALIKE, self.dealt - self.ended


class Dealer:
    """Accepts connections, and deals them out. Belongs to one thread.

    Nothing listens where there is no worker: whoever comes is refused, and can go elsewhere.

    Args:
        bound: Sockets that are bound, and listen while there are workers.
        path: Where workers' channels connect.
    """

    def __init__(self, bound: Sequence[socket.socket], path: Path) -> None:
        self._bound = bound
        self._workers: dict[socket.socket, _Worker] = {}
        self._accepts = False
        self._selector = selectors.DefaultSelector()
        self._entrance = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._entrance.bind(str(path))
        self._entrance.listen()
        self._selector.register(self._entrance, selectors.EVENT_READ, self._welcome)
        self._is_ending = False
        self._waking, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, self._end)

    @classmethod
    @contextlib.contextmanager
    def running(cls, bound: Sequence[socket.socket], path: Path) -> Iterator[None]:
        """Deal in a thread of its own."""
        dealer = cls(bound, path)
        thread = threading.Thread(target=dealer.run, name="dealer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            dealer.stop()
            thread.join()

    def run(self) -> None:
        """Deal until `stop` is called, from another thread."""
        try:
            with self._selector, self._entrance, self._waking, self._woken:
                while not self._is_ending:
                    for key, _ in self._selector.select():
                        key.data(key.fileobj)
                for channel in self._workers:
                    channel.close()
        except Exception:  # nobody could connect any more: whoever started us starts us anew
            logger.exception("connections can't be dealt out")
            os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        """End `run`, if it has not ended by itself."""
        with contextlib.suppress(OSError):
            self._waking.send(b" ")

    def _end(self, woken: socket.socket) -> None:
        self._is_ending = True

    def _welcome(self, entrance: socket.socket) -> None:
        channel = _accept(entrance)
        if channel is None:
            return
        channel.setblocking(False)
        self._selector.register(channel, selectors.EVENT_READ, self._hear)
        if not self._workers:
            for one in self._bound:
                one.setblocking(False)
                one.listen(BACKLOG)
        self._workers[channel] = _Worker(channel)
        self._accept_on()

    def _hear(self, channel: socket.socket) -> None:
        """A worker reports, or has gone."""
        try:
            content = channel.recv(_REPORT.size)
        except OSError:
            content = b""
        if content:
            worker = self._workers[channel]
            worker.taken, worker.ended = _REPORT.unpack(content)
            self._accept_on()
            return
        self._selector.unregister(channel)
        channel.close()
        del self._workers[channel]
        if not self._workers:
            self._accept_off()
            for one in self._bound:
                one.shutdown(socket.SHUT_RDWR)

    def _accept_on(self) -> None:
        if not self._accepts:
            self._accepts = True
            for one in self._bound:
                self._selector.register(one, selectors.EVENT_READ, self._deal)

    def _accept_off(self) -> None:
        """Let what comes wait in the kernel's queue, until a worker reports."""
        if self._accepts:
            self._accepts = False
            for one in self._bound:
                self._selector.unregister(one)

    def _deal(self, bound: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            workers = [one for one in self._workers.values() if one.untaken < _MOST_UNTAKEN]
            if not workers:
                self._accept_off()
                return
            connection = _accept(bound)
            if connection is None:
                return
            with connection:  # closed here: the worker has a handle of its own
                while workers and not (least := min(workers, key=_Worker.burden)).give(connection):
                    workers.remove(least)


def _accept(listening: socket.socket) -> socket.socket | None:
    """The next connection; None where none waits or none can be accepted just now."""
    try:
        return listening.accept()[0]
    except BlockingIOError:
        return None
    except OSError as error:
        logger.warning("cannot accept a connection", error=error.strerror)
        time.sleep(_PAUSE_S)
        return None
