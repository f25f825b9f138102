"""Asks an engine process for a sign of life, for whoever keeps it running and has no event loop."""

import socket
from pathlib import Path

from service.engine.engine_messages import Beat, frame


def is_stuck(engine: Path, *, after_s: float) -> bool:
    """Whether an engine takes a question and doesn't answer it; blocks for `after_s` at most.

    One that isn't there, doesn't listen yet, or ends meanwhile isn't stuck.

    Args:
        engine: The socket where it listens, or will.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(after_s)
        try:
            connection.connect(str(engine))
            connection.sendall(frame(Beat(0)))
            connection.recv(1)
        except TimeoutError:
            return True
        except OSError:
            return False
    return False
