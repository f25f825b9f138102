"""What can happen to replicas behind a balancer, the only address that callers know."""

from collections.abc import Callable

from faults import service_scenarios
from faults.world import World

SEEN_S = 1.0
"""Two of Envoy's looks: until then it asks no replica that has just begun."""


def rolling_restart_behind_envoy(world: World) -> None:
    """Each replica in turn is stopped and started, as for a new release."""
    service_scenarios.restart_in_turn(world, pause_s=SEEN_S)


def replica_killed_behind_envoy(world: World) -> None:
    """`kill -9` of one of two replicas: another one answers what it had under way."""
    service_scenarios.replica_killed(world)


LOSES: set[str] = set()
SCENARIOS: tuple[Callable[[World], None], ...] = (
    rolling_restart_behind_envoy,
    replica_killed_behind_envoy,
)
