"""The steps of a run: align, embed texts, fit, evaluate. Each is skipped where it is finished.

What only `align` needs is imported there: peft takes seconds to import.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lsvcr.errors import DataError
from lsvcr.popularity import HOUR_MS
from training import processes
from training.checkpoint import ALIGNED
from training.config import RunConfig
from training.dataset_folder import Dataset, fingerprint, load_dataset, sample_users
from training.evaluate import evaluate_run
from training.fit import fit
from training.language_model import model_fingerprint
from training.progress import show_progress
from training.run_folder import RunFolder, Source, Step
from training.run_texts import LoadedText, embed, load_text
from training.split import Prepared, prepare
from training.tested_before import checkpoint_hash, earlier_tests

MEMORY_SETTINGS = {
    "align": ("align.batch_samples", "align.prompt_tokens", "align.text_tokens"),
    "embed": ("text.batch_tokens", "text.max_tokens"),
    "fit": ("fit.batch_rows", "fit.video_negatives", "model.max_history"),
}
"""What the memory that a step takes depends on."""


def start_run(
    path: Path, config: RunConfig, data: Path, text_vectors: Path, *, skip_bad_rows: bool
) -> tuple[RunFolder, Prepared]:
    """Read a dataset folder and make the run folder, or go on with the one that is there.

    Raises:
        DataError: If the data is unusable, or `path` holds another run.
    """
    dataset = load_dataset(data, skip_bad_rows=skip_bad_rows)
    source = Source(str(data.resolve()), fingerprint(dataset), skip_bad_rows)
    with processes.first_goes_ahead():
        run = RunFolder.make(path, config, source, text_vectors.resolve())
    if len(dataset.skipped) and processes.is_first():
        dataset.skipped.write_csv(path / "skipped_rows.csv")
        print(f"left out {len(dataset.skipped):,} bad rows, listed in {path / 'skipped_rows.csv'}")
    return run, _prepare(dataset, config)


def load_prepared(run: RunFolder) -> Prepared:
    """Read a run's data again.

    Raises:
        DataError: If it isn't there or has changed.
    """
    dataset = load_dataset(Path(run.source.folder), skip_bad_rows=run.source.skip_bad_rows)
    source = Source(run.source.folder, fingerprint(dataset), run.source.skip_bad_rows)
    with processes.first_goes_ahead():
        RunFolder.make(run.path, run.config, source, run.text_vectors)
    return _prepare(dataset, run.config)


def align_step(run: RunFolder, prepared: Prepared) -> None:
    """Stage 1, where the settings ask for it: tune the language model and the encoder together."""
    if not run.config.align.epochs:
        return
    from training.align import LAST, align
    from training.preference_llm import load_causal_model

    name = run.config.text.language_model
    settings = run.config.model_dump(mode="json")
    inputs = {
        "data": run.source.fingerprint,
        "language model": model_fingerprint(name),
        "seed": run.config.fit.seed,
        **{section: settings[section] for section in ("text", "model", "align")},
    }
    if not _begin(run, "align", inputs):
        (run.path / LAST).unlink(missing_ok=True)
        return
    started_s, read_tokens = time.monotonic(), 0
    with show_progress("align") as report, hint_at_memory("align", run.config):

        def show(*, step: int, steps: int, losses: dict[str, float], tokens: int) -> None:
            nonlocal read_tokens
            read_tokens += tokens
            rate = read_tokens / (time.monotonic() - started_s)
            report(
                step / steps,
                f"step {step} of {steps}, loss {losses['total']:.3f}, {rate:,.0f} tokens/s",
            )
            if processes.is_first():
                run.log("align", number=step, losses=losses, tokens=tokens)

        align(
            prepared,
            run.config,
            run.path,
            load_model=lambda device: load_causal_model(name, device),
            progress=show,
        )
    _finish(run, "align")
    (run.path / LAST).unlink(missing_ok=True)  # after it: a crash in between loses nothing


def embed_step(run: RunFolder, prepared: Prepared) -> None:
    """Make the vectors of texts that have none yet; after `align`, as the aligned model reads."""
    if run.config.align.epochs:
        run.need("align")
    titles, comments = prepared.texts()
    with hint_at_memory("embed", run.config):
        vectors = embed(run, prepared)
    if empty := vectors.count_empty(titles + comments):
        _tell(f"embed: {empty:,} texts count as empty: of special tokens only, or of none")


def fit_step(run: RunFolder, prepared: Prepared, text: LoadedText | None = None) -> None:
    """Train the recommender, or go on with it after an interruption.

    Args:
        run, prepared: What to train, and on what.
        text: Where it is at hand; otherwise it is loaded.
    """
    text = text or load_text(run, prepared)
    settings = run.config.model_dump(mode="json")
    inputs = {
        "data": run.source.fingerprint,
        "text vectors": text.fingerprint,
        **{section: settings[section] for section in ("text", "model", "fit")},
    }
    config = run.config
    if config.align.epochs:
        inputs["align"] = run.need("align")
        start = {"start_from": config.fit.start_from or str(run.path / ALIGNED)}
        config = config.model_copy(update={"fit": config.fit.model_copy(update=start)})
    if not _begin(run, "fit", inputs):
        return
    for line in switched_off(prepared, run.config):
        _tell(f"fit: {line}")
    epochs = run.config.fit.epochs
    with show_progress("fit") as report, hint_at_memory("fit", run.config):

        def show(*, epoch: int, step: int, steps: int, loss: float, targets_per_s: float) -> None:
            note = f"epoch {epoch} of at most {epochs}, loss {loss:.3f}"
            report((epoch - 1 + step / steps) / epochs, f"{note}, {targets_per_s:,.0f} targets/s")

        fit(prepared, text.tables, config, run.path, progress=show)
    _finish(run, "fit")


def evaluate_step(
    run: RunFolder, prepared: Prepared, text: LoadedText | None = None
) -> dict[str, Any]:
    """Measure the best checkpoint and the baselines; returns the content of `metrics.json`."""
    inputs = {"fit": run.need("fit"), "evaluate": run.config.evaluate.model_dump(mode="json")}
    if not _begin(run, "evaluate", inputs):
        return run.read_metrics()
    for folder in earlier_tests(run):
        _tell(f"note: {folder} tested another checkpoint of this configuration before")
    started_s = time.monotonic()
    text = text or load_text(run, prepared)
    metrics = evaluate_run(prepared, text.tables, run.config, run.path)
    if processes.is_first():
        run.write_metrics(metrics)
    _finish(run, "evaluate")
    if processes.is_first():
        run.log(
            "evaluate",
            seconds=round(time.monotonic() - started_s, 2),
            config_hash=run.config.short_hash,
            checkpoint=checkpoint_hash(run),
            data=run.source.fingerprint,
        )
    return metrics


def switched_off(prepared: Prepared, config: RunConfig) -> list[str]:
    """Which parts of the model the data can give nothing for, and why."""
    off = []
    if not len(prepared.comment_targets("train")):
        off.append("no comment events to learn from: comment task, history and profiles are off")
    if config.model.prior_half_lives_days:
        time_N = prepared.timelines.video_time_N
        if not prepared.has_times:
            off.append("timestamps are positions, no times: the popularity prior is off")
        elif time_N.max() // HOUR_MS == time_N.min() // HOUR_MS:
            off.append("all events lie within an hour: the popularity prior has nothing to go by")
    return off


@contextmanager
def hint_at_memory(step: str, config: RunConfig) -> Iterator[None]:
    """Where a GPU's memory does not suffice, say which settings to lower.

    Raises:
        DataError: In place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        settings = config.model_dump(mode="json")
        present = ", ".join(
            f"{path} (now {json.dumps(settings[section][key])})"
            for path in MEMORY_SETTINGS[step]
            for section, _, key in [path.partition(".")]
        )
        recompute = "; or set align.recompute_activations=true" if step == "align" else ""
        raise DataError(
            f"{step}: the GPU's memory is used up. In another run, lower {present}{recompute}"
        ) from error


def _begin(run: RunFolder, step: Step, inputs: dict[str, Any]) -> bool:
    """Note what a step is made from; return whether it still has to be done, or say it is not."""
    with processes.first_goes_ahead():
        if processes.is_first():
            run.hold()
        is_open = run.begin(step, inputs)
        if processes.is_first() and not is_open:
            run.release()
    if not is_open:
        _tell(f"{step}: finished before")
    return is_open


def _finish(run: RunFolder, step: Step) -> None:
    """Note, once all processes are through, that a step is done; all then know it."""
    processes.wait_for_all()
    with processes.first_goes_ahead():
        if processes.is_first():
            run.finish(step)
            run.release()


def _tell(message: str) -> None:
    """Print a line once."""
    if processes.is_first():
        print(message, flush=True)


def _prepare(dataset: Dataset, config: RunConfig) -> Prepared:
    if config.data.sample_users is not None:
        dataset = sample_users(
            dataset,
            config.data.sample_users,
            config.fit.seed,
            min_events=config.data.min_events,
        )
    return prepare(dataset, config)
