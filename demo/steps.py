"""The steps before the service: the commands that a user types, skipped where they are done."""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from demo.errors import DemoError

INTERRUPTED = 130
"""Exit code of a command that was stopped by Ctrl-C."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        result: Written when the command has finished, never before.
        arguments: What follows `python -m`.
    """

    title: str
    result: Path
    arguments: tuple[str, ...]


def steps_of(folder: Path) -> list[Step]:
    """Data, training and export, everything below `folder`."""
    data, run, registry = folder / "data", folder / "run", folder / "registry"
    # Rows of some 40 events: with small batches 12 epochs are enough to beat popularity clearly.
    fit = ("--set", "fit.batch_rows=16", "--set", "fit.epochs=12", "--set", "text.trigrams=128")
    return [
        Step("Generate a world", data, ("training", "data", "demo", "--out", str(data))),
        Step(
            "Embed its texts, train, evaluate",
            run / "report.html",
            ("training", "run", "--data", str(data), "--preset", "small", *fit, "--out", str(run)),
        ),
        Step(
            "Export a bundle and publish it",
            registry / "current.json",
            ("export", "--run", str(run), "--registry", str(registry), "--activate"),
        ),
    ]


def do_step(step: Step) -> None:
    """Run a step's command, unless its result is there.

    Raises:
        DemoError: If it fails.
        KeyboardInterrupt: If it was stopped.
    """
    print(f"\n── {step.title}")
    if step.result.exists():
        print(f"already done: {step.result}")
        return
    print(f"$ python -m {shlex.join(step.arguments)}", flush=True)
    started_s = time.monotonic()
    status = _run(step.arguments)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        raise DemoError(f"python -m {shlex.join(step.arguments)} failed with exit code {status}")
    print(f"done in {time.monotonic() - started_s:.0f} s", flush=True)


def _run(arguments: tuple[str, ...]) -> int:
    with subprocess.Popen([sys.executable, "-m", *arguments]) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the command got it, too, and may tidy up in peace
            process.wait()
            raise
