"""How far a long step is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from training import processes

LINE_EVERY_S = 10

Report = Callable[[float, str], None]
"""Told the share of the work that is done, from 0 to 1, and a note."""


@contextmanager
def show_progress(title: str) -> Iterator[Report]:
    """Show the first process's progress on the standard error stream while the block runs."""
    if not processes.is_first():
        yield lambda share, note: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_lines(title, console)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task(title, total=1.0, note="")
        yield lambda share, note: progress.update(task, completed=share, note=note)


def _print_lines(title: str, console: Console) -> Report:
    started_s = last_s = time.monotonic()

    def report(share: float, note: str) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s < LINE_EVERY_S or not share:
            return
        last_s = now_s
        left_s = (now_s - started_s) * (1 - share) / share
        console.print(f"{title}: {share:.0%}, {note}, {left_s:.0f} s left", highlight=False)

    return report
