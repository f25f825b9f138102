"""Sockets that whoever answers binds for itself, all at one address.

Of a socket that workers share, whoever is awake takes connections and keeps them, so that one of
two had four fifths of them at times (docs/decisions/0051). To sockets of their own the kernel
deals connections out by a hash.
"""

import socket
from typing import Any, Self

_ACCEPTED_A_TURN = 12
"""The event loop accepts one connection of a socket a turn, and some turns take milliseconds: of
clients that connect together many waited for seconds. So a worker has so many sockets."""


class WorkerSocket(socket.socket):
    """In the process that makes it an address; in one that it is sent to, a socket bound to it.

    Nothing listens here, so nothing is waiting for a worker that ended.
    """

    @classmethod
    def several(cls, bound: socket.socket) -> list[Self]:
        """As many at an address as a worker should have."""
        return [cls(fileno=bound.dup().detach()) for _ in range(_ACCEPTED_A_TURN)]

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is sent to another process."""
        return _bind, (self.family, self.getsockname())


def bind_several(host: str, port: int) -> list[socket.socket]:
    """As many where this process is the only one that answers.

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
