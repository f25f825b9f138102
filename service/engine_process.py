"""Keeps an engine process running: starts it, and another one whenever it has ended."""

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from service.settings import Settings

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
"""Between the end of one engine and the start of the next; doubled while they end at once."""
STABLE_S = 30.0
END_S = 15.0

logger = logging.getLogger(__name__)


class EngineProcess:
    """An engine and its successors, for as long as the block lasts.

    Args:
        settings: The service's.
        gpu: The only GPU that it may see, by number; None leaves the choice to the environment.

    Attributes:
        socket: Where it listens, or will.
    """

    def __init__(self, settings: Settings, gpu: str | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lsvcr-engine-")  # only we may enter it
        self.socket = Path(self._folder.name) / "engine.sock"
        own = settings.model_copy(update={"engine_socket": str(self.socket)})
        self._environment = {**os.environ, **own.to_environment()}
        if gpu is not None:
            self._environment["CUDA_VISIBLE_DEVICES"] = gpu
        self._ending = threading.Event()
        self._process = self._launch()
        self._thread = threading.Thread(target=self._keep_alive, name="engine-keeper", daemon=True)

    @property
    def pid(self) -> int:
        """Of the engine that runs now."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Watch over it."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, after what it has begun."""
        self._ending.set()
        self._process.terminate()
        self._thread.join(END_S)
        if self._process.poll() is None:
            self._process.kill()
        self._folder.cleanup()

    def _launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "service.engine"],
            env=self._environment,
            stdin=subprocess.PIPE,  # closes when this process ends, however it ends
            start_new_session=True,  # Ctrl-C is for us: the engine outlasts the last answer
        )

    def _keep_alive(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            started_s = time.monotonic()
            with self._process as process:
                status = process.wait()
            if self._ending.is_set():
                return
            if time.monotonic() - started_s > STABLE_S:
                pause_s = FIRST_PAUSE_S
            logger.error("the engine ended with status %d; next try in %.1f s", status, pause_s)
            if self._ending.wait(pause_s):
                return
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._process = self._launch()
            if self._ending.is_set():  # asked to end while the next one was being started
                self._process.terminate()
