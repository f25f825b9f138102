"""Damaged index files neither end the process that reads them nor take its memory."""

import subprocess
import sys
from pathlib import Path

import pytest
from effort import TRIED, takes_time

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["flat", "lists", "short lists"])
@pytest.mark.parametrize("seed", range(2))
def test_damaged_indexes_are_refused_or_searched(tmp_path: Path, kind: str, seed: int) -> None:
    times = 50_000 if takes_time() else 500
    reading = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.index_damage", tmp_path, kind, str(seed), str(times)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert reading.returncode == 0, (reading.stdout[-300:], reading.stderr[-3000:])
    outcome = reading.stdout.splitlines()[-1]
    assert outcome.startswith("searched ")
    assert 0 < int(outcome.split()[1]) < times  # else nothing was tried
    TRIED[f"indexes, {kind}"] += times
