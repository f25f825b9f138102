"""Draws what benchmarks found, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.load_generator import Seen


def plot_latency(path: Path, runs: Sequence[Seen], title: str) -> None:
    """Latency percentiles of answered requests against what was offered."""
    offered = [len(seen.status_N) / seen.load.seconds for seen in runs]
    curves = {
        f"p{percent:g}": (offered, [seen.percentile_ms(percent) for seen in runs])
        for percent in (50, 99, 99.9)
    }
    plot_curves(path, curves, title, "requests a second, offered", "latency in ms")


def plot_curves(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Some lines over one axis; the vertical one is logarithmic.

    Args:
        notes: What stands beside each point of a line.
    """
    from matplotlib.figure import Figure  # without a display, and only where one plots

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in curves.items():
        axes.plot(x, y, marker="o", label=name)
        for note, *point in zip((notes or {}).get(name, ()), x, y, strict=False):
            axes.annotate(note, point, textcoords="offset points", xytext=(5, 5), fontsize=8)
    axes.set(title=title, xlabel=x_label, ylabel=y_label, yscale="log")
    if notes:
        axes.margins(x=0.1)
    if log_x:
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
