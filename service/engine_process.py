"""Keeps an engine process running: starts it, and another one whenever it has ended or hangs.

Another process waits with everything imported, so that it takes over a second sooner.
"""

import contextlib
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

from service.engine.engine_pulse import is_stuck
from service.settings import Settings

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
"""Between the end of one engine and the start of the next; doubled while they end at once."""
STABLE_S = 30.0
LOOK_S = 1.0
"""How often to see whether the engine lives and answers."""
SPARE_AFTER_S = 5.0
"""When the engine has long been loading, or has loaded: until then it needs the cores itself."""
END_S = 15.0

Process = subprocess.Popen[bytes]

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
        self._hung_s = settings.engine_hung_s
        self._ending = threading.Event()
        self._spare: Process | None = None
        self._process = self._take_next()
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
        if self._spare is not None:
            with self._spare as spare:
                spare.kill()  # it has begun nothing
        self._folder.cleanup()

    def _launch(self) -> Process:
        return subprocess.Popen(
            [sys.executable, "-m", "service.engine"],
            env=self._environment,
            stdin=subprocess.PIPE,  # closes when this process ends, however it ends
            start_new_session=True,  # Ctrl-C is for us: the engine outlasts the last answer
        )

    def _take_next(self) -> Process:
        """Let the one that waits, or a new one, be the engine."""
        process, self._spare = self._spare or self._launch(), None
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: we shall see
            process.stdin.write(b"\n")
            process.stdin.flush()
        return process

    def _keep_alive(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            started_s = time.monotonic()
            with self._process as process:
                status = self._await_end(process, started_s + SPARE_AFTER_S)
            if self._ending.is_set():
                return
            if time.monotonic() - started_s > STABLE_S:
                pause_s = FIRST_PAUSE_S
            logger.error("the engine ended with status %d; next try in %.1f s", status, pause_s)
            if self._ending.wait(pause_s):
                return
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._process = self._take_next()
            if self._ending.is_set():  # asked to end while the next one was being started
                self._process.terminate()

    def _await_end(self, process: Process, spare_from_s: float) -> int:
        """Wait until it has ended, and end it where it hangs; meanwhile prepare the next one."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK_S)
            if self._spare is None and time.monotonic() > spare_from_s:
                self._spare = self._launch()
            if is_stuck(self.socket, after_s=self._hung_s):
                logger.error("the engine gave no sign of life for %.1f s", self._hung_s)
                process.kill()
