"""Times ways of doing the same in turn, round after round, so that a busy machine hits all."""

import time
from collections.abc import Callable, Mapping

from benchmarks.results_file import spread


def alternate(
    ways: Mapping[str, Callable[[], object]], *, rounds: int, repeat: int
) -> dict[str, list[float]]:
    """Milliseconds of one call, for each way and round; the first round is thrown away.

    Args:
        rounds: How often each way has its turn.
        repeat: Calls in one turn.
    """
    took_ms: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, call in ways.items():
            started_s = time.perf_counter()
            for _ in range(repeat):
                call()
            took_ms[name].append((time.perf_counter() - started_s) * 1000 / repeat)
    return {name: values[1:] for name, values in took_ms.items()}


def print_row(name: str, values: list[float], unit: str, beside: str = "", digits: int = 3) -> None:
    """One line of a table: the median, its spread, and what it is compared with."""
    row = spread(values, digits=digits)
    print(
        f"{name:46} {row['median']:>12,.{digits}f} {unit} "
        f"({row['smallest']:,.{digits}f} to {row['largest']:,.{digits}f})  {beside}",
        flush=True,
    )
