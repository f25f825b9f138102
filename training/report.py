"""One self-contained HTML page about a run: metrics, learning curve, settings."""

import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.run_folder import RunFolder

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
svg { background: #fafafa; border: 1px solid #ddd }
"""
RANKINGS = {
    "Videos, one against sampled others": ("video", "sampled"),
    "Videos, among all": ("video", "full"),
    "Comments, within the thread": ("comment", "thread"),
}
COLOURS = ("#1f6fb2", "#c8511b", "#3a8a3a")
CHART_WIDTH, CHART_HEIGHT, MARGIN = 560, 200, 40


def write_report(run: RunFolder) -> Path:
    """Write `report.html`; raises DataError if the run is not evaluated yet."""
    path = run.path / "report.html"
    beside = run.path / ".report.html.partial"
    beside.write_text(_page(run), encoding="utf-8")
    os.replace(beside, path)
    return path


def summary_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """Recall@10 and NDCG@10 of the model and each baseline: a header, then a row per figure."""
    models = {"model": metrics, **metrics["baselines"]}
    rows = [["", "users", *models]]
    for task, kind in RANKINGS.values():
        if task not in metrics:
            continue
        users = f"{metrics[task][kind]['users']:,.0f}"
        for key in ("recall@10", "ndcg@10"):
            values = (f"{model[task][kind][key]:.4f}" for model in models.values())
            rows.append([f"{task} {kind} {key}", users, *values])
    return rows


def _page(run: RunFolder) -> str:
    metrics = run.read_metrics()
    epochs = [line for line in run.read_log() if line["step"] == "fit"]
    title = f"Run {run.path.resolve().name}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>",
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>",
        "<h2>Test metrics</h2>",
        *(
            f"<h3>{escape(heading)}</h3>{_metric_table(metrics, task, kind)}"
            for heading, (task, kind) in RANKINGS.items()
            if task in metrics
        ),
        "<h2>Learning curve</h2>",
        _chart("Training loss", {"loss": [line["losses"]["total"] for line in epochs]}),
        _chart("NDCG@10 on validation", _validation_curves(epochs)),
        "<h2>Settings</h2>",
        _settings_table(run),
        f"<p>Data: {escape(run.source.folder)}, content {run.source.fingerprint[:16]}</p></html>",
    ]
    return "\n".join(parts)


def _metric_table(metrics: dict[str, Any], task: str, kind: str) -> str:
    models = {"model": metrics, **metrics["baselines"]}
    values = {name: of[task][kind] for name, of in models.items()}
    rows = [["", *values]]
    for metric in values["model"]:
        digits = 0 if metric == "users" else 4
        rows.append([metric, *(f"{value[metric]:,.{digits}f}" for value in values.values())])
    return _table(rows)


def _settings_table(run: RunFolder) -> str:
    settings = run.config.model_dump(mode="json")
    return _table(
        [["setting", "value"]]
        + [
            [f"{section}.{key}", str(value)]
            for section, values in settings.items()
            for key, value in values.items()
        ]
    )


def _table(rows: Iterable[Sequence[str]]) -> str:
    """An HTML table whose first row is its head."""
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        lines.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row))
    return "<table>" + "\n".join(lines) + "</table>"


def _validation_curves(epochs: list[dict[str, Any]]) -> dict[str, list[float]]:
    return {
        f"{task} {kind}": [line["validation"][task][kind]["ndcg@10"] for line in epochs]
        for task, kind in RANKINGS.values()
        if epochs and task in epochs[0]["validation"]
    }


def _chart(title: str, curves: dict[str, list[float]]) -> str:
    """Lines over epochs 1, 2, … as SVG."""
    highest = max((value for curve in curves.values() for value in curve), default=0) or 1
    shapes = [
        f'<text x="{MARGIN}" y="16">{escape(title)}</text>',
        f'<text x="4" y="{MARGIN + 4}" font-size="11">{highest:.3g}</text>',
        f'<text x="4" y="{CHART_HEIGHT - MARGIN + 4}" font-size="11">0</text>',
    ]
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        step = (CHART_WIDTH - 2 * MARGIN) / max(1, len(curve) - 1)
        scale = (CHART_HEIGHT - 2 * MARGIN) / highest
        points = " ".join(
            f"{MARGIN + index * step:.1f},{CHART_HEIGHT - MARGIN - value * scale:.1f}"
            for index, value in enumerate(curve)
        )
        shapes.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        shapes.append(
            f'<text x="{MARGIN + 150 * number}" y="{CHART_HEIGHT - 10}" font-size="12" '
            f'fill="{colour}">{escape(name)}, {len(curve)} epochs</text>'
        )
    size = f'width="{CHART_WIDTH}" height="{CHART_HEIGHT}"'
    return f"<p><svg {size}>{''.join(shapes)}</svg>"
