"""One HTML page about one or several runs that needs nothing else: no network, no scripts."""

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from lsvcr.errors import DataError
from training.compare import Difference, System, compare, mean_intervals, read_users
from training.data_description import describe
from training.dataset_folder import fingerprint, load_dataset
from training.examples import read_examples
from training.run_folder import RunFolder

RANKINGS = {
    "Videos, one against sampled others": ("video", "sampled"),
    "Videos, one against popular others": ("video", "popular"),
    "Videos, among all": ("video", "full"),
    "Comments, within the thread": ("comment", "thread"),
}
SYSTEMS = {
    "model": "model",
    "prior_and_profile": "recent popularity, repeats and profile, no encoder",
    "popularity": "popularity of all time, votes",
    "text_neighbours": "nearest texts",
}
GROUPS = {
    "history": ("earlier events of the user", (0, 5, 10, 20, 50)),
    "target_events": ("training events of the video", (0, 1, 10, 30, 100)),
}
HIDDEN = {
    "last": "Every user's last event was hidden",
    "time": "Every user's first event behind a cut in time was hidden",
}
METRIC = "ndcg@10"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 560, 210, 46, 12, 26


@dataclass(frozen=True)
class Cell:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
    is_best: bool


def write_page(runs: list[RunFolder], path: Path) -> Path:
    """Write the page of the first run, with the others beside it.

    Raises:
        DataError: If a run is not evaluated yet.
    """
    environment = Environment(
        loader=PackageLoader("training", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template("report_template.html").render(**_content(runs))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, path)
    return path


def _content(runs: list[RunFolder]) -> dict[str, Any]:
    run = runs[0]
    metrics = run.read_metrics()
    description = run.description()
    epochs = [line for line in run.read_log() if line["step"] == "fit"]
    known = {title: ranking for title, ranking in RANKINGS.items() if ranking[0] in metrics}
    settings = run.config.model_dump(mode="json")
    return {
        "name": run.path.resolve().name,
        "config_hash": run.config.short_hash,
        "source": run.source,
        "hidden": HIDDEN[run.config.data.split],
        "leak_check": metrics.get("leak_check", []),
        "description": description,
        "epochs": epochs,
        "profile": _data_profile(run),
        "sentences": [*_sentences(run, metrics), *_factors(epochs)],
        "systems": SYSTEMS,
        "tables": {title: _table(run, metrics, *ranking) for title, ranking in known.items()},
        "other_figures": {
            name: value
            for name, value in metrics.items()
            if name not in ("video", "comment", "baselines")
        },
        "groups": {title: _groups(run, *ranking) for title, ranking in known.items()},
        "loss_chart": line_chart({"loss": [line["losses"]["total"] for line in epochs]}),
        "validation_chart": line_chart(_validation_curves(epochs)),
        "others": [_beside(run, other) for other in runs[1:]],
        "examples": read_examples(run.path),
        "settings": {
            f"{s}.{key}": v for s, values in settings.items() for key, v in values.items()
        },
    }


def _data_profile(run: RunFolder) -> dict[str, Any] | None:
    """What the run learned from, as `data check` tells it; None where that isn't there any more."""
    source = run.source
    try:
        dataset = load_dataset(Path(source.folder), skip_bad_rows=source.skip_bad_rows)
    except DataError:
        return None
    if fingerprint(dataset) != source.fingerprint:
        return None
    facts, advice = describe(dataset)
    return {"counts": dataset.counts(), "facts": facts, "advice": advice}


def _table(run: RunFolder, metrics: dict[str, Any], task: str, ranking: str) -> dict[str, Any]:
    """By metric, a cell per system; `users` apart."""
    intervals = mean_intervals(run.path)
    systems = {"model": metrics, **metrics["baselines"]}
    rows: dict[str, dict[str, Cell]] = {}
    for metric in intervals["model"][task][ranking]:
        values = {name: of[task][ranking][metric] for name, of in systems.items()}
        best = max(values.values())
        rows[metric] = {
            name: Cell(value, *intervals[name][task][ranking][metric], value == best)
            for name, value in values.items()
        }
    return {"users": int(metrics[task][ranking]["users"]), "systems": list(systems), "rows": rows}


def _groups(run: RunFolder, task: str, ranking: str) -> list[tuple[str, str]]:
    """A bar chart for each way to group users that the run has stored."""
    users = read_users(run.path).filter(
        (pl.col("task") == task)
        & (pl.col("ranking") == ranking)
        & pl.col("system").is_in(["model", "prior_and_profile", "popularity"])
    )
    charts = []
    for column, (title, edges) in GROUPS.items():
        if column not in users.columns:
            continue
        group_S = np.digitize(users[column].to_numpy(), edges) - 1
        labels = [
            f"{low}" if high == low + 1 else f"{low}–{high - 1}"
            for low, high in itertools.pairwise(edges)
        ] + [f"{edges[-1]} and more"]
        bars: dict[str, dict[str, tuple[float, float, int]]] = {}
        for (group, system), some in users.with_columns(group=pl.Series(group_S)).group_by(
            "group", "system"
        ):
            value_S = some[METRIC].to_numpy()
            error = 1.96 * float(value_S.std()) / len(value_S) ** 0.5
            label = labels[int(group)]  # type: ignore[call-overload]
            bars.setdefault(label, {})[str(system)] = (float(value_S.mean()), error, len(value_S))
        ordered = {label: bars[label] for label in labels if label in bars}
        charts.append((f"By {title}", bar_chart(ordered)))
    return charts


def _sentences(run: RunFolder, metrics: dict[str, Any]) -> Iterable[str]:
    """What the paired differences say, in words."""
    for baseline in metrics["baselines"]:
        for row in compare(System((run.path,), baseline), System((run.path,))):
            if row.metric == METRIC:
                yield _sentence(row, SYSTEMS.get(baseline, baseline))


def _factors(epochs: list[dict[str, Any]]) -> Iterable[str]:
    """How much of the encoder's part the validation of the best epoch kept, where it chose."""
    for line in [line for line in epochs if line["is_best"]][-1:]:
        for task, factor in line.get("encoder_factor", {}).items():
            if factor != 1:
                yield (
                    f"For {task}s the encoder's part counts {factor:g} times: "
                    "with that, what users chose in validation was likeliest."
                )


def _sentence(row: Difference, reference: str) -> str:
    """One difference of the model to something else, with its interval."""
    titles = {ranking: title for title, ranking in RANKINGS.items()}
    difference = row.second - row.first
    share = f" ({difference / row.first:+.0%})" if row.first else ""
    if not row.is_clear:
        verdict = "makes no difference that these users could show"
    else:
        verdict = "is better" if difference > 0 else "is worse"
    return (
        f"{titles[(row.task, row.ranking)]}: against “{reference}” the model {verdict}: "
        f"{difference:+.4f}{share} NDCG@10, 95 % interval {row.low:+.4f} to {row.high:+.4f}."
    )


def _beside(run: RunFolder, other: RunFolder) -> dict[str, Any]:
    """Another run: which settings differ, and the paired differences of its model to this one's."""
    here, there = (one.config.model_dump(mode="json") for one in (run, other))
    changed = [
        f"{section}.{key} = {there[section][key]}"
        for section in here
        for key in here[section]
        if here[section][key] != there[section][key]
    ]
    systems = System((run.path,)), System((other.path,))
    differences = [row for row in compare(*systems) if row.metric == METRIC]
    return {"name": other.path.resolve().name, "changed": changed, "differences": differences}


def _validation_curves(epochs: list[dict[str, Any]]) -> dict[str, list[float]]:
    return {
        f"{task} {kind}": [line["validation"][task][kind][METRIC] for line in epochs]
        for task, kind in RANKINGS.values()
        if epochs and task in epochs[0]["validation"]
    }


def line_chart(curves: dict[str, list[float]]) -> str:
    """Lines over epochs 1, 2, … as SVG; colours are classes of the page's style."""
    highest = max((value for curve in curves.values() for value in curve), default=0) or 1
    epochs = max((len(curve) for curve in curves.values()), default=1)
    shapes = [_axis(highest)]
    for number, (name, curve) in enumerate(curves.items()):
        step = (WIDTH - LEFT - 12) / max(1, epochs - 1)
        points = " ".join(
            f"{LEFT + index * step:.1f},{_height(value, highest):.1f}"
            for index, value in enumerate(curve)
        )
        shapes.append(f'<polyline class="line c{number}" points="{points}"/>')
        shapes.append(_legend(number, name))
    ends = f'<text x="{LEFT}" y="{HEIGHT - 8}">1</text>'
    ends += f'<text x="{WIDTH - 12}" y="{HEIGHT - 8}" class="end">epoch {epochs}</text>'
    return _svg([*shapes, ends])


def bar_chart(bars: dict[str, dict[str, tuple[float, float, int]]]) -> str:
    """Groups of bars with 95 % intervals: by label and system, (value, half width, users)."""
    highest = max((v + e for group in bars.values() for v, e, _ in group.values()), default=0) or 1
    systems = sorted({system for group in bars.values() for system in group})
    shapes = [_axis(highest), *(_legend(n, name) for n, name in enumerate(systems))]
    room = (WIDTH - LEFT - 12) / max(1, len(bars))
    width = room * 0.75 / max(1, len(systems))
    for place, (label, group) in enumerate(bars.items()):
        left = LEFT + place * room
        for number, system in enumerate(systems):
            if system not in group:
                continue
            value, error, _ = group[system]
            x, y = left + number * width, _height(value, highest)
            low, high = _height(max(0, value - error), highest), _height(value + error, highest)
            middle = x + width / 2
            shapes.append(
                f'<rect class="bar c{number}" x="{x:.1f}" y="{y:.1f}" width="{width - 2:.1f}" '
                f'height="{HEIGHT - BOTTOM - y:.1f}"><title>{escape(system)} {value:.4f}</title>'
                f'</rect><path class="error" d="M{middle:.1f} {low:.1f}V{high:.1f}"/>'
            )
        users = max(users for _, _, users in group.values())
        shapes.append(f'<text x="{left:.1f}" y="{HEIGHT - 8}">{escape(label)} (n={users:,})</text>')
    return _svg(shapes)


def _height(value: float, highest: float) -> float:
    top = TOP + 16
    return HEIGHT - BOTTOM - value / highest * (HEIGHT - BOTTOM - top)


def _axis(highest: float) -> str:
    lines = []
    for share in (0, 0.5, 1):
        y = _height(share * highest, highest)
        lines.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 12}"/>')
        lines.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{share * highest:.3g}</text>'
        )
    return "".join(lines)


def _legend(number: int, name: str) -> str:
    x = LEFT + 165 * number
    return (
        f'<rect class="bar c{number}" x="{x}" y="4" width="10" height="10"/>'
        f'<text x="{x + 15}" y="13">{escape(name)}</text>'
    )


def _svg(shapes: list[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(shapes)}</svg>'
