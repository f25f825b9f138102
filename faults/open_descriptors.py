"""What a process has open, by whom it is for (Linux)."""

import contextlib
from pathlib import Path
from typing import NamedTuple


class Descriptors(NamedTuple):
    """Open descriptors: connections of callers, connections to the store, and all others."""

    callers: int
    to_store: int
    others: int


def count_descriptors(pid: int, *, port: int, store_port: int) -> Descriptors:
    """Look at a process.

    Args:
        port: Where it listens.
        store_port: Where its store does, or a proxy before that.
    """
    targets = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            targets.append(str(link.readlink()))
    connections = _connections(pid)
    ports = [connections.get(target, (0, 0)) for target in targets]
    callers = sum(local == port and remote > 0 for local, remote in ports)
    to_store = sum(remote == store_port for _, remote in ports)
    return Descriptors(callers, to_store, len(targets) - callers - to_store)


def _connections(pid: int) -> dict[str, tuple[int, int]]:
    """Local and remote port by a link's target; the remote one is 0 of a socket that listens."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {
        f"socket:[{inode}]": (_port(local), _port(remote))
        for _, local, remote, *_, inode in (row[:10] for row in rows)
    }


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
