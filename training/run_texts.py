"""Which vectors the texts of a run have, where they lie, and how missing ones are made.

The encoder reads titles and comments as the run's language model does, tuned by stage 1 or not.
Profiles compare comments as the model reads them *before* any tuning, and by their spelling:
tuning for what a user prefers next wipes out how somebody writes
(docs/decisions/0028-profiles-compare-spelling.md).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training import processes
from training.byte_trigrams import NAME, ByteTrigrams, fit_by_rarity
from training.checkpoint import ALIGNED_LANGUAGE_MODEL
from training.comment_features import comment_features
from training.config import TextConfig
from training.fit import pick_device
from training.language_model import load_language_model
from training.progress import show_progress
from training.run_folder import RunFolder
from training.split import Prepared, TextTables
from training.text_embedding import TextEncoder, embed_more_texts, embed_texts, vectors_folder
from training.text_vectors import TextBasis, TextVectors


@dataclass(frozen=True)
class Kind:
    """One kind of vectors.

    Attributes:
        name: For the progress bar.
        config: Who makes them, of how many tokens, how wide.
        store: Where all runs' or this run's vectors are kept.
        load_encoder: Called only if a text has no vector yet.
        fit_on: The texts that components are fitted on: the same for every run of a store.
        fit_basis: Makes components from raw vectors and a width.
    """

    name: str
    config: TextConfig
    store: Path
    load_encoder: Callable[[], TextEncoder]
    fit_on: Callable[[Prepared], list[str]]
    fit_basis: Callable[[NDArray[np.float32], int], TextBasis]

    @property
    def folder(self) -> Path:
        """Where the vectors lie."""
        return vectors_folder(self.store, self.config)

    def load(self) -> TextVectors:
        """Read them; raises DataError if there are none."""
        return TextVectors.load(self.folder)


@dataclass(frozen=True)
class LoadedText:
    """A run's text tables and the fingerprint of the vectors they come from."""

    tables: TextTables
    fingerprint: str


def embed(run: RunFolder, prepared: Prepared) -> TextVectors:
    """Make what vectors are missing; returns those that the encoder reads.

    Raises:
        DataError: If there is no text, or the language model or a file of a store is unusable.
    """
    read, *compared = _kinds(run, prepared)
    titles, comments = prepared.texts()
    vectors = _embed(run, read, titles + comments, prepared)
    for kind in compared:
        _embed(run, kind, comments, prepared)
    return vectors


def load_text(run: RunFolder, prepared: Prepared) -> LoadedText:
    """Look up all vectors; raises DataError if some were never made."""
    titles, comments = prepared.texts()
    kinds = _kinds(run, prepared)
    loaded = {kind.folder: kind.load() for kind in kinds}
    vectors = loaded[kinds[0].folder]
    compared = [loaded[kind.folder] for kind in _compared(run, prepared)]
    feature_CF = np.zeros((len(comments), 0), np.float32)
    if compared:
        feature_CF = comment_features(prepared, [one.lookup(comments) for one in compared])
    tables = TextTables(
        title_VE=vectors.lookup(titles),
        comment_CE=vectors.lookup(comments),
        feature_CF=feature_CF,
        category_V=prepared.catalogue.category_V,
    )
    return LoadedText(tables, "+".join(one.fingerprint for one in loaded.values()))


def embed_new(run: RunFolder, prepared: Prepared, texts: Sequence[str]) -> TextVectors:
    """Vectors that the encoder reads, of further texts, onto the components that there are.

    Raises:
        DataError: If there are none, or those of another language model.
    """
    return _embed_onto(_kinds(run, prepared)[0], texts)


def compared_vectors(
    run: RunFolder, prepared: Prepared, comments: Sequence[str]
) -> list[NDArray[np.float32]]:
    """What profiles compare of any comments, kind by kind; errors as `embed_new`."""
    return [_embed_onto(kind, comments).lookup(comments) for kind in _compared(run, prepared)]


def _kinds(run: RunFolder, prepared: Prepared) -> list[Kind]:
    """What the encoder reads, and what else has to be made for profiles."""
    read = _tuned(run) if run.config.align.epochs else _untuned(run)
    return [read, *(kind for kind in _compared(run, prepared) if kind.folder != read.folder)]


def _compared(run: RunFolder, prepared: Prepared) -> list[Kind]:
    """What profiles compare; nothing without profiles."""
    config = run.config
    if not config.model.profile_events:
        return []
    has_comments = prepared.catalogue.comment_count > 1  # row 0 is padding
    return [_untuned(run), *([_spelling(run)] if has_comments and config.text.trigrams else [])]


def _untuned(run: RunFolder) -> Kind:
    name = run.config.text.language_model

    def load_encoder() -> TextEncoder:
        _tell_loading(run)
        return load_language_model(name, pick_device(run.config.fit.device))

    return Kind(
        "embed",
        run.config.text,
        run.text_vectors,
        load_encoder,
        Prepared.fit_texts,
        TextBasis.fit,
    )


def _tuned(run: RunFolder) -> Kind:
    """The aligned model's vectors are of use to its run only; it is named by its file."""

    def load_encoder() -> TextEncoder:
        from training.aligned_text import load_aligned_language_model

        _tell_loading(run)
        return load_aligned_language_model(run.path, run.config, pick_device(run.config.fit.device))

    name = str(run.path / ALIGNED_LANGUAGE_MODEL)
    config = run.config.text.model_copy(update={"language_model": name})
    store = run.path / "text_vectors"
    return Kind(
        "embed as aligned",
        config,
        store,
        load_encoder,
        Prepared.fit_texts,
        TextBasis.unrotated,
    )


def _spelling(run: RunFolder) -> Kind:
    """Trigrams are kept as the vectors of a model of that name."""
    text = run.config.text
    config = text.model_copy(update={"language_model": NAME, "width": text.trigrams})
    return Kind(
        "trigrams",
        config,
        run.text_vectors,
        ByteTrigrams,
        lambda prepared: prepared.fit_comments() or prepared.fit_texts(),
        fit_by_rarity,
    )


def _embed(run: RunFolder, kind: Kind, texts: Sequence[str], prepared: Prepared) -> TextVectors:
    started_s = time.monotonic()
    embedded = 0
    with show_progress(kind.name) as report:

        def show(*, texts: int, total: int, share: float) -> None:
            nonlocal embedded
            embedded = texts
            rate = texts / (time.monotonic() - started_s)
            report(share, f"{texts:,} of {total:,} texts, {rate:,.0f} texts/s")

        vectors = embed_texts(
            texts,
            config=kind.config,
            load_model=kind.load_encoder,
            store=kind.store,
            fit_on=kind.fit_on(prepared),
            progress=show,
            fit_basis=kind.fit_basis,
        )
    if processes.is_first():
        if embedded:
            seconds = round(time.monotonic() - started_s, 2)
            run.log("embed", kind=kind.name, texts=embedded, seconds=seconds)
        else:
            print(f"{kind.name}: every text has its vector", flush=True)
    return vectors


def _embed_onto(kind: Kind, texts: Sequence[str]) -> TextVectors:
    with show_progress(kind.name) as report:
        return embed_more_texts(
            texts,
            config=kind.config,
            load_model=kind.load_encoder,
            store=kind.store,
            progress=lambda *, texts, total, share: report(share, f"{texts:,} of {total:,} texts"),
        )


def _tell_loading(run: RunFolder) -> None:
    if processes.is_first():
        print(f"loading the language model {run.config.text.language_model}", flush=True)
