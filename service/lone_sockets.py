"""Sockets of a process that answers alone, all at one address.

The event loop accepts one connection of a socket a turn, and some turns take milliseconds: of
clients that connect together many waited for seconds. So there are several.
"""

import socket
from typing import Any

_ACCEPTED_A_TURN = 12


def bind_several(host: str, port: int) -> list[socket.socket]:
    """As many as connections are to be accepted in a turn of the event loop.

    Raises:
        OSError: If somebody listens there, who wouldn't mind, but would get half of what comes.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind((host, port))
        return [_bind(family, alone.getsockname()) for _ in range(_ACCEPTED_A_TURN)]


def _bind(family: int, address: Any) -> socket.socket:
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(address)
    return bound
