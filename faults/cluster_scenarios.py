"""What can happen to a cluster of three masters, each with a replica."""

import time
from collections.abc import Callable

from faults.world import World

HOLD_S = 8.0


def master_lost(world: World) -> None:
    """`kill -9` of one master: its replica takes over within some seconds; then it comes back."""
    victim = world.cluster().servers[0]
    with world.fault():
        victim.kill()
        time.sleep(HOLD_S)
    victim.start(*world.cluster().options(victim))


def master_hung(world: World) -> None:
    """SIGSTOP of one master until another one has its slots."""
    victim = world.cluster().servers[1]
    with world.fault():
        victim.freeze()
        time.sleep(HOLD_S)
        victim.thaw()


LOSES: set[str] = {"master_lost", "master_hung"}  # replication is asynchronous: docs/decisions/0022
SCENARIOS: tuple[Callable[[World], None], ...] = (master_lost, master_hung)
