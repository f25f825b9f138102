"""Checks a bundle's files in a process of its own, while this one goes on answering.

Checksums and a look at every number take seconds of a core, and some of it Python's lock for tens
of milliseconds at a time: in threads, requests would wait for both.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

from lsvcr.bundle import load_bundle
from lsvcr.errors import BundleError

Haste = Literal["idle", "nice"]
"""Whether only what nobody else wants of a processor is taken, or a tenth of it in any case."""

PATIENCE_S = 30.0
"""For a check in idle time, of which a machine that is overloaded has none for as long as it is:
just then somebody may want the model of yesterday back."""
_NICENESS = 10


def check_apart(folder: Path) -> None:
    """Check all that `load_bundle` checks; takes seconds, to be called in a thread.

    In idle time; where there isn't enough of it, once more without waiting for it.

    Raises:
        BundleError: With the reason, or if the check itself came to no end.
    """
    try:
        _check(folder, "idle", PATIENCE_S)
    except subprocess.TimeoutExpired:
        _check(folder, "nice", None)


def _check(folder: Path, haste: Haste, timeout_s: float | None) -> None:
    command = [sys.executable, "-m", "service.engine.check_process", str(folder), haste]
    try:
        # In a group of its own, so that Ctrl-C is for us alone; but in our session, as between
        # sessions Linux divides processors evenly, whatever their processes' priorities.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0
        )
    except OSError as error:
        raise BundleError(f"the check of the bundle can't begin: {error.strerror}") from error
    with process:
        try:
            reason, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    if process.returncode:
        ended = f"the check of the bundle ended with status {process.returncode}"
        raise BundleError(reason.decode() or ended)


def main(folder: Path, haste: Haste) -> int:
    """Print why a bundle can't be used; the exit status is 0 if it can."""
    if haste == "idle":
        _take_idle_time_alone()
    else:
        os.nice(_NICENESS)
    try:
        load_bundle(folder)
    except BundleError as error:
        sys.stdout.buffer.write(str(error).encode(errors="backslashreplace"))
        return 1
    return 0


def _take_idle_time_alone() -> None:
    """Whoever has something to do goes before us, at once.

    With the highest niceness alone we would finish our slice first, some milliseconds of it.
    """
    os.nice(19)  # where there is no such policy, or it isn't allowed
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "idle" if sys.argv[2] == "idle" else "nice"))
