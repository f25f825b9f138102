"""`python -m faults [NAME …]`: do faults to real processes under load, and tell what happened."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.results_file import write_results
from faults import (
    balancer_scenarios,
    cluster_scenarios,
    gpu_scenarios,
    registry_scenarios,
    service_scenarios,
    store_scenarios,
)
from faults.report import Row, as_json, as_table, judge
from faults.world import World, events_found, running_world

Scenario = Callable[[World], None]
GROUPS = (
    store_scenarios,
    service_scenarios,
    balancer_scenarios,
    registry_scenarios,
    cluster_scenarios,
    gpu_scenarios,
)


def main(arguments: Sequence[str]) -> int:
    """Run scenarios; the exit status is 1 where a goal was missed."""
    names = [scenario.__name__ for group in GROUPS for scenario in group.SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(names):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    rows = list(_run(options.names or names))
    print(as_table(rows))
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "rows": as_json(rows),
    }
    write_results(options.out, found)
    return 1 if any(row.failures for row in rows) else 0


def _run(names: Sequence[str]) -> Iterator[Row]:
    for group in GROUPS:
        wanted = [one for one in group.SCENARIOS if one.__name__ in names]
        if not wanted:
            continue
        is_clustered, is_balanced = group is cluster_scenarios, group is balancer_scenarios
        with _new_world(clustered=is_clustered, balanced=is_balanced) as world:
            for scenario in wanted:
                row = _run_one(world, scenario, may_lose=scenario.__name__ in group.LOSES)
                print(f"{row.scenario}: {'; '.join(row.failures) or 'met'}", file=sys.stderr)
                yield row


def _run_one(world: World, scenario: Scenario, *, may_lose: bool) -> Row:
    name = scenario.__name__.replace("_", " ")
    world.notes, world.failures = [], []
    with world.load(f"{scenario.__name__}-{datetime.now(UTC):%H%M%S}") as load:
        scenario(world)
    return judge(
        name,
        load.record,
        began_s=world.began_s,
        ended_s=world.ended_s,
        found=events_found(world, load.record),
        notes=world.notes,
        failures=world.failures,
        may_lose=may_lose,
    )


@contextmanager
def _new_world(*, clustered: bool, balanced: bool) -> Iterator[World]:
    with (
        tempfile.TemporaryDirectory(prefix="lsvcr-faults-") as folder,
        running_world(Path(folder), clustered=clustered, balanced=balanced) as world,
    ):
        yield world


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
