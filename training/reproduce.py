"""Run a table of docs/results.md again: every row a run folder, one process for all of them.

Data, text vectors and what is computed from them are kept between rows: on a GPU a row takes less
time than reading them does.
"""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lsvcr.errors import DataError
from training import processes
from training.compare import System, compare, mean_intervals
from training.config import PRESETS, RunConfig
from training.dataset_folder import fingerprint, load_dataset
from training.fit import pick_device
from training.quality_tables import TABLES, QualityTable, Row
from training.run_folder import RunFolder, Source
from training.run_texts import LoadedText, load_text
from training.split import Prepared, prepare
from training.steps import (
    align_step,
    embed_step,
    evaluate_step,
    fit_step,
)

SHOWN = (
    ("video", "sampled", "ndcg@10"),
    ("video", "popular", "ndcg@10"),
    ("video", "full", "ndcg@10"),
    ("video", "full", "recall@10"),
    ("comment", "thread", "ndcg@10"),
)


def reproduce(
    name: str, *, data: Path, runs: Path, text_vectors: Path, only: list[str], out: Path
) -> str:
    """Run what is missing of a table and write its figures.

    Args:
        name: Of a table in `TABLES`.
        data: Dataset folder.
        runs: Where the run folders lie, one per row and seed; a finished one is read.
        text_vectors: Store of text vectors that all rows share.
        only: Names of rows, run beside the first; empty for all.
        out: JSON file of the rows asked for, written anew after every row, so that an interrupted
            table keeps its figures.

    Returns:
        The table as Markdown.

    Raises:
        DataError: For an unknown table or row, or unusable data.
    """
    table = _table(name)
    rows = _chosen(table, only)
    trainer = Trainer(data, text_vectors)
    content = trainer.source.fingerprint
    result: dict[str, Any] = {"table": name, "data": table.data, "content": content}
    entries: list[dict[str, Any]] = []
    first: System | None = None
    for row in rows:
        folders = []
        for seed in table.seeds:
            config = row_config(table, row, seed)
            folder = runs / f"{_file_name(row.name)}-{seed}-{config.short_hash}"
            if processes.is_first():
                print(f"{name}: {row.name}, seed {seed} in {folder}", flush=True)
            trainer.run(folder, config)
            folders.append(folder)
        model = System(tuple(folders))
        first = first or model
        entries.append(_entry(row, table, model, first))
        result["rows"] = entries
        if processes.is_first():
            _write(out, result)
    return markdown(entries)


class Trainer:
    """Trains and evaluates configurations on one data set, which is read once."""

    def __init__(self, data: Path, text_vectors: Path) -> None:
        self.dataset = load_dataset(data, skip_bad_rows=False)
        self.source = Source(str(data.resolve()), fingerprint(self.dataset), False)
        self.text_vectors = text_vectors.resolve()
        self.prepared_key: str | None = None
        self.prepared: Prepared | None = None
        self.text_key: str | None = None
        self.text: LoadedText | None = None

    def run(self, path: Path, config: RunConfig) -> None:
        """Do the steps that a run folder lacks."""
        if config.data.sample_users is not None:
            raise DataError("a table is made from all users: data.sample_users must be null")
        with processes.first_goes_ahead():
            run = RunFolder.make(path, config, self.source, self.text_vectors)
        if run.is_finished("evaluate"):
            return
        if processes.is_first():
            run.log("machine", **hardware(config))
        prepared = self._prepare(config)
        align_step(run, prepared)
        text = self._load_text(run, prepared)
        fit_step(run, prepared, text)
        evaluate_step(run, prepared, text)

    def _prepare(self, config: RunConfig) -> Prepared:
        """Read events anew only where the settings that `prepare` reads differ."""
        key = config.model_dump_json(
            include={"data": True, "evaluate": True, "model": {"comments_per_event"}}
        )
        if key != self.prepared_key:
            self.prepared, self.prepared_key = prepare(self.dataset, config), key
            self.text = self.text_key = None
        assert self.prepared is not None
        return self.prepared

    def _load_text(self, run: RunFolder, prepared: Prepared) -> LoadedText:
        key = run.config.model_dump_json(include={"text": True, "model": {"profile_events"}})
        is_own = run.config.align.epochs > 0
        if self.text is None or key != self.text_key or is_own:
            embed_step(run, prepared)
            self.text = load_text(run, prepared)
            self.text_key = None if is_own else key
        return self.text


def row_config(table: QualityTable, row: Row, seed: int) -> RunConfig:
    """The configuration of a row; candidates stay the same for all seeds."""
    settings = [*table.settings, *row.settings, f"fit.seed={seed}"]
    return PRESETS[row.preset].override(settings)


def hardware(config: RunConfig) -> dict[str, Any]:
    """What a run is computed on."""
    device = pick_device(config.fit.device)
    is_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else platform.processor() or "cpu",
        "cpu_cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def markdown(entries: list[dict[str, Any]]) -> str:
    """A line per row: mean over seeds ± standard deviation."""
    heads = [f"{task} {ranking} {metric}" for task, ranking, metric in SHOWN]
    lines = [
        "| row | seeds | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 2) + "|",
    ]
    for entry in entries:
        cells = []
        for head in heads:
            value = entry["over_seeds"].get(head)
            difference = entry["against_first"].get(head)
            mark = " *" if difference and (difference["low"] > 0 or difference["high"] < 0) else ""
            sd = f" ± {value['sd']:.4f}" if value and value["sd"] is not None else ""
            cells.append(f"{value['mean']:.4f}{sd}{mark}" if value else "")
        lines.append(f"| {entry['name']} | {len(entry['runs'])} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "\\* differs from the first row, paired over users (95 %)."])


def _entry(row: Row, table: QualityTable, model: System, first: System) -> dict[str, Any]:
    """The figures of one row over its seeds."""
    runs: list[dict[str, Any]] = []
    for seed, folder in zip(table.seeds, model.runs, strict=True):
        run = RunFolder.open(folder)
        log = run.read_log()
        machines = [line for line in log if line["step"] == "machine"]
        runs.append(
            {
                "run": folder.name,
                "seed": seed,
                "config_hash": run.config.short_hash,
                "commit": run.description()["git_revision"],
                "hardware": {k: v for k, v in machines[-1].items() if k not in ("step", "at")},
                "epochs": sum(line["step"] == "fit" for line in log),
                "fit_seconds": sum(line["seconds"] for line in log if line["step"] == "fit"),
                "metrics": run.read_metrics(),
                "intervals": mean_intervals(folder),
            }
        )
    parts = System(model.runs, "prior_and_profile")
    has_parts = parts.name in runs[0]["metrics"]["baselines"]
    return {
        "name": row.name,
        "preset": row.preset,
        "settings": [*table.settings, *row.settings],
        "runs": runs,
        "over_seeds": _over_seeds([run["metrics"] for run in runs]),
        "against_first": {} if model == first else _against(first, model),
        "against_prior_and_profile": _against(parts, model) if has_parts else {},
    }


def _over_seeds(metrics: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    values: dict[str, dict[str, float | None]] = {}
    for task in ("video", "comment"):
        for ranking, figures in metrics[0].get(task, {}).items():
            for metric in figures:
                of_seeds = [one[task][ranking][metric] for one in metrics]
                sd = float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else None
                values[f"{task} {ranking} {metric}"] = {"mean": float(np.mean(of_seeds)), "sd": sd}
    return values


def _against(first: System, second: System) -> dict[str, dict[str, float]]:
    """Paired over users, each one's mean over the seeds."""
    return {
        f"{row.task} {row.ranking} {row.metric}": {
            key: value for key, value in asdict(row).items() if isinstance(value, float)
        }
        for row in compare(first, second)
    }


def _table(name: str) -> QualityTable:
    if name not in TABLES:
        raise DataError(f"no table {name!r}; known are {', '.join(TABLES)}")
    return TABLES[name]


def _chosen(table: QualityTable, only: list[str]) -> list[Row]:
    known = [row.name for row in table.rows]
    for name in only:
        if name not in known:
            raise DataError(f"no row {name!r}; known are {', '.join(known)}")
    first, *others = table.rows
    return [first, *(row for row in others if not only or row.name in only)]


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, path)
