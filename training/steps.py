"""The steps of a run: embed texts, fit, evaluate. Each is skipped where it is finished."""

import time
from pathlib import Path
from typing import Any

from training.config import RunConfig
from training.dataset_folder import Dataset, fingerprint, load_dataset, sample_users
from training.evaluate import evaluate_run
from training.fit import fit, pick_device
from training.language_model import LanguageModel, load_language_model
from training.progress import show_progress
from training.run_folder import RunFolder, Source
from training.split import Prepared, TextTables, prepare
from training.text_embedding import embed_texts, vectors_folder
from training.text_vectors import TextVectors


def start_run(
    path: Path, config: RunConfig, data: Path, text_vectors: Path, *, skip_bad_rows: bool
) -> tuple[RunFolder, Prepared]:
    """Read a dataset folder and make the run folder, or go on with the one that is there.

    Raises:
        DataError: If the data is unusable, or `path` holds another run.
    """
    dataset = load_dataset(data, skip_bad_rows=skip_bad_rows)
    source = Source(str(data.resolve()), fingerprint(dataset), skip_bad_rows)
    run = RunFolder.make(path, config, source, text_vectors.resolve())
    if len(dataset.skipped):
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
    RunFolder.make(run.path, run.config, source, run.text_vectors)
    return _prepare(dataset, run.config)


def load_text(run: RunFolder, prepared: Prepared) -> TextTables:
    """Look up a run's text vectors; raises DataError if some were never embedded."""
    return _tables(_load_vectors(run), prepared)


def embed_step(run: RunFolder, prepared: Prepared) -> None:
    """Embed the texts that have no vector yet."""
    titles, comments = prepared.texts()
    started_s = time.monotonic()
    embedded = 0

    def load_model() -> LanguageModel:
        print(f"loading the language model {run.config.text.language_model}", flush=True)
        return load_language_model(
            run.config.text.language_model, pick_device(run.config.fit.device)
        )

    with show_progress("embed") as report:

        def show(*, texts: int, total: int, share: float) -> None:
            nonlocal embedded
            embedded = texts
            rate = texts / (time.monotonic() - started_s)
            report(share, f"{texts:,} of {total:,} texts, {rate:,.0f} texts/s")

        embed_texts(
            titles + comments,
            config=run.config.text,
            load_model=load_model,
            store=run.text_vectors,
            fit_on=prepared.fit_texts(),
            progress=show,
        )
    if embedded:
        run.log("embed", texts=embedded, seconds=round(time.monotonic() - started_s, 2))
    else:
        print("embed: every text has its vector")


def fit_step(run: RunFolder, prepared: Prepared) -> None:
    """Train the recommender, or go on with it after an interruption."""
    vectors = _load_vectors(run)
    settings = run.config.model_dump(mode="json")
    inputs = {
        "data": run.source.fingerprint,
        "text vectors": vectors.fingerprint,
        **{section: settings[section] for section in ("text", "model", "fit")},
    }
    if not run.begin("fit", inputs):
        print("fit: finished before")
        return
    epochs = run.config.fit.epochs
    with show_progress("fit") as report:

        def show(*, epoch: int, step: int, steps: int, loss: float) -> None:
            note = f"epoch {epoch} of at most {epochs}, loss {loss:.3f}"
            report((epoch - 1 + step / steps) / epochs, note)

        fit(prepared, _tables(vectors, prepared), run.config, run.path, progress=show)
    run.finish("fit")


def evaluate_step(run: RunFolder, prepared: Prepared) -> dict[str, Any]:
    """Measure the best checkpoint and the baselines; returns the content of `metrics.json`."""
    inputs = {"fit": run.need("fit"), "evaluate": run.config.evaluate.model_dump(mode="json")}
    if not run.begin("evaluate", inputs):
        print("evaluate: finished before")
        return run.read_metrics()
    started_s = time.monotonic()
    metrics = evaluate_run(prepared, load_text(run, prepared), run.config, run.path)
    run.write_metrics(metrics)
    run.finish("evaluate")
    run.log("evaluate", seconds=round(time.monotonic() - started_s, 2))
    return metrics


def _prepare(dataset: Dataset, config: RunConfig) -> Prepared:
    if config.data.sample_users is not None:
        dataset = sample_users(
            dataset,
            config.data.sample_users,
            config.fit.seed,
            min_events=config.data.min_events,
        )
    return prepare(dataset, config)


def _load_vectors(run: RunFolder) -> TextVectors:
    return TextVectors.load(vectors_folder(run.text_vectors, run.config.text))


def _tables(vectors: TextVectors, prepared: Prepared) -> TextTables:
    titles, comments = prepared.texts()
    return TextTables(vectors.lookup(titles), vectors.lookup(comments))
