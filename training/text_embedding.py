"""Embeds texts that have no vector yet: the longest first, a file's worth at a time.

Shape suffixes: N texts, H width of the language model.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import item_hashes
from lsvcr.errors import DataError
from training import processes
from training.config import TextConfig
from training.language_model import model_fingerprint
from training.text_vectors import (
    BASIS_FILE,
    Notes,
    TextBasis,
    TextVectors,
    pack,
    read_notes,
    read_tensors,
    write_shard,
    write_tensors,
)

SAMPLE_TEXTS = 20_480
"""Most texts that the basis is fitted on."""
SHARD_BYTES = 2**18
"""Text a file covers: what an interruption loses at most, some two minutes of two CPU cores."""
BYTES_PER_TOKEN = 4
"""Roughly; what is beyond `max_tokens` costs no work."""

Texts = dict[int, str]
"""Distinct texts by their 64-bit hash."""


class TextEncoder(Protocol):
    """What turns texts into raw vectors: a language model, or counts of trigrams."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int,
        batch_tokens: int,
        on_batch: Callable[[Sequence[int]], None],
    ) -> NDArray[np.float32]:
        """`vector_NH` of texts, in their order; `on_batch` hears the positions that are done."""


class EmbeddingProgress(Protocol):
    """Told about each batch; a progress bar, or nothing."""

    def __call__(self, *, texts: int, total: int, share: float) -> None:
        """`texts` of `total` are embedded, which was `share` (0 to 1) of the work."""


def vectors_folder(store: Path, config: TextConfig) -> Path:
    """Where in `store` the vectors of these settings lie."""
    model = re.sub(r"[^\w.-]", "_", Path(config.language_model).name)
    return store / f"{model}-{config.max_tokens}-{config.width}"


def embed_texts(
    texts: Sequence[str],
    *,
    config: TextConfig,
    load_model: Callable[[], TextEncoder],
    store: Path,
    fit_on: Sequence[str],
    progress: EmbeddingProgress = lambda *, texts, total, share: None,
    fit_basis: Callable[[NDArray[np.float32], int], TextBasis] = TextBasis.fit,
) -> TextVectors:
    """Embed what `store` doesn't hold yet, and load the vectors of all.

    Each of several `processes` embeds its part and writes files of its own.

    Args:
        texts: May repeat and be empty.
        config: Which model, how many tokens and components.
        load_model: Called only if a text has to be embedded.
        store: Made if it isn't there. If the model's content changed, its vectors are replaced.
        fit_on: What the components are fitted on, if they aren't yet.
        progress: Told after each batch.
        fit_basis: Makes the basis from raw vectors and the width to keep.

    Raises:
        DataError: If there is no text to fit on, or the model or a file of the store is unusable.
    """
    folder = vectors_folder(store, config)
    folder.mkdir(parents=True, exist_ok=True)
    load_model = functools.cache(load_model)
    notes = _notes(config)
    if not _is_current(folder / BASIS_FILE, notes):
        sample = _distinct(fit_on)
        sample = {number: sample[number] for number in sorted(sample)[:SAMPLE_TEXTS]}
        _fit_basis(folder, sample, load_model, config, progress, fit_basis)
    return _embed_missing(folder, _distinct(texts), config, load_model, progress)


def embed_more_texts(
    texts: Sequence[str],
    *,
    config: TextConfig,
    load_model: Callable[[], TextEncoder],
    store: Path,
    progress: EmbeddingProgress = lambda *, texts, total, share: None,
) -> TextVectors:
    """As `embed_texts`, onto the components that `store` has: none are fitted.

    Raises:
        DataError: If it has none, or those of another language model; then nothing is changed.
    """
    folder = vectors_folder(store, config)
    if not _is_current(folder / BASIS_FILE, _notes(config)):
        raise DataError(
            f"{folder}: these text vectors are missing or come from another language model than "
            f"the {config.language_model} that is installed"
        )
    return _embed_missing(folder, _distinct(texts), config, load_model, progress)


def _embed_missing(
    folder: Path,
    wanted: Texts,
    config: TextConfig,
    load_model: Callable[[], TextEncoder],
    progress: EmbeddingProgress,
) -> TextVectors:
    with processes.first_goes_ahead():
        vectors = _load_all(folder, _notes(config))
    hash_N = np.fromiter(wanted, np.uint64, len(wanted))
    missing = {number: wanted[number] for number in hash_N[vectors.find(hash_N) < 0].tolist()}
    processes.wait_for_all()  # or a file that one has written already is missing for another
    if missing:
        for hash_N, vector_NH in _embed_shards(missing, load_model(), config, progress):
            codes = {"hash_N": hash_N, "code_NE": vectors.basis.encode(vector_NH)}
            write_shard(folder, "codes", codes, {"basis": vectors.fingerprint})
    processes.wait_for_all()
    with processes.first_goes_ahead():
        pack(folder)
    return TextVectors.load(folder) if missing else vectors


def _fit_basis(
    folder: Path,
    sample: Texts,
    load_model: Callable[[], TextEncoder],
    config: TextConfig,
    progress: EmbeddingProgress,
    fit_basis: Callable[[NDArray[np.float32], int], TextBasis],
) -> None:
    """Embed the sample and fit; raw vectors wait in files, as they cannot be coded before."""
    if not sample:
        raise DataError("no text to fit the text vectors on: every title and comment is empty")
    notes = _notes(config)
    known = {number for hash_N, _ in _sample_shards(folder, notes) for number in hash_N.tolist()}
    missing = {number: text for number, text in sample.items() if number not in known}
    for hash_N, vector_NH in _embed_shards(missing, load_model(), config, progress):
        write_shard(folder, "sample", {"hash_N": hash_N, "vector_NH": vector_NH}, notes)
    processes.wait_for_all()
    if processes.is_first():
        raw = [vector_NH for _, vector_NH in _sample_shards(folder, notes)]
        basis = fit_basis(np.concatenate(raw), config.width)
        write_tensors(folder / BASIS_FILE, vars(basis), notes)
    processes.wait_for_all()


def _load_all(folder: Path, notes: Notes) -> TextVectors:
    """Load the vectors, after coding a sample that still lies there raw; drop outdated files."""
    vectors = TextVectors.load(folder)
    for hash_N, vector_NH in _sample_shards(folder, notes):
        codes = {"hash_N": hash_N, "code_NE": vectors.basis.encode(vector_NH)}
        write_shard(folder, "codes", codes, {"basis": vectors.fingerprint})
    outdated = list(folder.glob("sample-*.safetensors"))
    if not outdated:
        return vectors
    outdated += [
        path
        for path in folder.glob("codes-*.safetensors")
        if read_notes(path).get("basis") != vectors.fingerprint
    ]
    for path in outdated:
        path.unlink()
    return TextVectors.load(folder)


def _embed_shards(
    texts: Texts, model: TextEncoder, config: TextConfig, progress: EmbeddingProgress
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32]]]:
    """Embed this process's part of the texts, the longest first.

    Yields:
        Hashes and vectors of one file's worth a time.
    """
    most = BYTES_PER_TOKEN * config.max_tokens
    work = {number: min(len(text.encode()), most) for number, text in texts.items()}
    numbers = sorted(texts, key=lambda number: (-work[number], number))
    numbers = numbers[processes.rank() :: processes.count()]
    total_work, done_work, done_texts = sum(work[number] for number in numbers), 0, 0
    for shard in _split(numbers, work):

        def report(rows: Sequence[int], shard: list[int] = shard) -> None:
            nonlocal done_work, done_texts
            done_work += sum(work[shard[row]] for row in rows)
            done_texts += len(rows)
            share_of_texts = done_texts / len(numbers)  # the others will be about as far
            progress(
                texts=round(share_of_texts * len(texts)),
                total=len(texts),
                share=done_work / total_work,
            )

        vector_NH = model.encode(
            [texts[number] for number in shard],
            max_tokens=config.max_tokens,
            batch_tokens=config.batch_tokens,
            on_batch=report,
        )
        yield np.array(shard, np.uint64), vector_NH


def _split(numbers: list[int], work: dict[int, int]) -> Iterator[list[int]]:
    """Cut into pieces of at least `SHARD_BYTES` of work, but for the last."""
    start, piece_work = 0, 0
    for position, number in enumerate(numbers, start=1):
        piece_work += work[number]
        if piece_work >= SHARD_BYTES or position == len(numbers):
            yield numbers[start:position]
            start, piece_work = position, 0


def _distinct(texts: Sequence[str]) -> Texts:
    different = [text for text in dict.fromkeys(texts) if text]
    return dict(zip(item_hashes(different).tolist(), different, strict=True))


def _notes(config: TextConfig) -> Notes:
    """What vectors depend on, beside the text."""
    return {
        "format": "1",
        "language_model": config.language_model,
        "fingerprint": model_fingerprint(config.language_model) or "",
        "max_tokens": str(config.max_tokens),
        "width": str(config.width),
    }


def _is_current(path: Path, notes: Notes) -> bool:
    """Whether a basis is there and is this model's.

    Where the model is not installed its name must do, so that vectors can be used without it.
    """
    if not path.exists():
        return False
    found = read_notes(path)
    decisive = "fingerprint" if notes["fingerprint"] else "language_model"
    same = ("format", "max_tokens", "width", decisive)
    return all(found.get(key) == notes[key] for key in same)


def _sample_shards(
    folder: Path, notes: Notes
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32]]]:
    """Hashes and raw vectors that wait for their basis."""
    for path in sorted(folder.glob("sample-*.safetensors")):
        if read_notes(path) == notes:
            tensors, _ = read_tensors(path)
            yield tensors["hash_N"], tensors["vector_NH"]
