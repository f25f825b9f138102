"""Stops without refusing anybody: first not ready, still answering, and only then gone."""

import signal
import threading
from types import FrameType

from fastapi import FastAPI


def drain_on_sigterm(app: FastAPI, drain_s: float) -> None:
    """On SIGTERM say that we aren't ready, answer on for a while, then go on as before.

    A balancer needs that while to notice. A second SIGTERM stops at once. To be called while the
    application starts, when the server's own handlers are installed; outside the main thread,
    where none can be, nothing is changed.

    Args:
        app: Its state gets `is_draining`.
        drain_s: How long to answer on.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop):
        return

    def drain(number: int, frame: FrameType | None) -> None:
        if app.state.is_draining:
            stop(number, frame)
            return
        app.state.is_draining = True
        timer = threading.Timer(drain_s, stop, (number, frame))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, drain)
