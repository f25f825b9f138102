"""Text vectors in a compact folder that can be carried between machines and grows.

STORE/smollm2-135m-128-128/        one folder per model, max_tokens and width
  basis.safetensors                mean and principal components, fitted once
  codes-1f09….safetensors          8-byte hashes and int8 codes of many texts
  sample-….safetensors             only until the basis is fitted: raw vectors of its sample

Every file is final once written, so what is finished stays finished when a run is interrupted;
many small files are packed into few at its end.
Shape suffixes: N texts, H width of the language model, E width kept.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lsvcr.catalogue import item_hashes
from lsvcr.errors import DataError

BASIS_FILE = "basis.safetensors"
MOST_EXACT = 4096
"""Where vectors and their numbers are both more than this, components are approximated."""

PACKED_BYTES = 14 * 2**20
"""Size of a packed file: large, yet small enough to be mailed or checked in."""

Notes = dict[str, str]
"""Metadata of a file."""


@dataclass(frozen=True)
class TextBasis:
    """The principal components that text vectors are reduced to.

    Attributes:
        mean_H: Subtracted first.
        components_HE: Orthonormal columns, largest variance first; zero where there are fewer.
        scale_E: What one step of an int8 code is worth.
    """

    mean_H: NDArray[np.float32]
    components_HE: NDArray[np.float32]
    scale_E: NDArray[np.float32]

    @classmethod
    def fit(cls, vector_NH: NDArray[np.float32], width: int) -> Self:
        """Fit min(`width`, H, N - 1) components to the vectors; the others are zero."""
        mean_H = vector_NH.mean(0, dtype=np.float64)
        kept = min(width, vector_NH.shape[1], len(vector_NH) - 1)
        many = min(vector_NH.shape) > MOST_EXACT
        centred_NH = vector_NH - mean_H.astype(np.float32 if many else np.float64)
        directions = _leading_directions if many else _principal_directions
        components_HE = np.zeros((vector_NH.shape[1], width), centred_NH.dtype)
        components_HE[:, :kept] = directions(centred_NH, kept)
        largest_E = components_HE[np.abs(components_HE).argmax(0), np.arange(width)]
        components_HE *= np.where(largest_E < 0, -1, 1)  # eigenvectors have no sign of their own
        peak_E = np.abs(centred_NH @ components_HE).max(0)
        scale_E = np.where(peak_E > 0, peak_E / 127, 1)
        return cls(
            mean_H.astype(np.float32),
            components_HE.astype(np.float32),
            scale_E.astype(np.float32),
        )

    @classmethod
    def unrotated(cls, vector_NE: NDArray[np.float32], width: int) -> Self:
        """Keep vectors of `width` numbers as they are: they were trained to be compared so.

        Half as large again as the largest of the sample still has a code.
        """
        peak_E = 1.5 * np.abs(vector_NE).max(0)
        scale_E = np.where(peak_E > 0, peak_E / 127, 1).astype(np.float32)
        return cls(np.zeros(width, np.float32), np.eye(width, dtype=np.float32), scale_E)

    def encode(self, vector_NH: NDArray[np.float32]) -> NDArray[np.int8]:
        """Reduce vectors to `code_NE`; a zero vector (a text without tokens) stays zero."""
        code_NE = np.rint((vector_NH - self.mean_H) @ self.components_HE / self.scale_E)
        code_NE[~vector_NH.any(1)] = 0
        return np.clip(code_NE, -127, 127).astype(np.int8)


def _principal_directions(centred_NH: NDArray[np.float64], kept: int) -> NDArray[np.float64]:
    """Orthonormal columns, largest variance first; by the smaller of the two products."""
    if len(centred_NH) < centred_NH.shape[1]:
        return np.linalg.svd(centred_NH, full_matrices=False)[2].T[:, :kept]
    return np.linalg.eigh(centred_NH.T @ centred_NH)[1][:, : -kept - 1 : -1]


def _leading_directions(centred_NH: NDArray[np.float32], kept: int) -> NDArray[np.float32]:
    """The same, nearly, of far more vectors and numbers: by projections (Halko et al. 2011)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, direction_HE = torch.svd_lowrank(torch.from_numpy(centred_NH), kept + 32, niter=2)
    return direction_HE[:, :kept].numpy()


@dataclass(frozen=True)
class TextVectors:
    """Vectors of many texts, found by the texts themselves.

    Attributes:
        fingerprint: Changes with the basis, and so with every vector.
        sorted_hash_N: uint64, ascending.
        code_NE: int8, in the same order.
    """

    basis: TextBasis
    fingerprint: str
    sorted_hash_N: NDArray[np.uint64]
    code_NE: NDArray[np.int8]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the finished files of one folder.

        Raises:
            DataError: If the basis is missing or a file is unreadable.
        """
        if not (folder / BASIS_FILE).exists():
            raise DataError(f"{folder}: no text vectors are here; run `embed` first")
        tensors, _ = read_tensors(folder / BASIS_FILE)
        basis = TextBasis(**tensors)
        fingerprint = hashlib.sha256((folder / BASIS_FILE).read_bytes()).hexdigest()
        hash_N = [np.zeros(0, np.uint64)]
        code_NE = [np.zeros((0, len(basis.scale_E)), np.int8)]
        for path in sorted(folder.glob("codes-*.safetensors")):
            tensors, notes = read_tensors(path)
            if notes.get("basis") == fingerprint:
                hash_N.append(tensors["hash_N"])
                code_NE.append(tensors["code_NE"])
        sorted_hash_N, first_N = np.unique(np.concatenate(hash_N), return_index=True)
        return cls(basis, fingerprint, sorted_hash_N, np.concatenate(code_NE)[first_N])

    def find(self, hash_N: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Position of each hash, -1 where it is not known."""
        if not len(self.sorted_hash_N):
            return np.full(len(hash_N), -1)
        position_N = np.searchsorted(self.sorted_hash_N, hash_N)
        position_N = np.minimum(position_N, len(self.sorted_hash_N) - 1)
        return np.where(self.sorted_hash_N[position_N] == hash_N, position_N, -1)

    def count_empty(self, texts: Sequence[str]) -> int:
        """How many different texts have characters, but no tokens to make a vector of."""
        hash_N = item_hashes(list({text for text in texts if text}))
        position_N = self.find(hash_N)
        return int((~self.code_NE[position_N[position_N >= 0]].any(1)).sum())

    def lookup(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, in order; the empty text is zero. Shape (N, E).

        Raises:
            DataError: For a text that was never embedded.
        """
        position_N = self.find(item_hashes(texts))
        is_empty_N = np.fromiter((not text for text in texts), bool, len(texts))
        unknown_N = np.flatnonzero((position_N < 0) & ~is_empty_N)
        if len(unknown_N):
            raise DataError(
                f"{len(unknown_N):,} of {len(texts):,} texts have no vector, the first is "
                f"{texts[unknown_N[0]][:80]!r}: run `embed` again"
            )
        vector_NE = np.zeros((len(texts), len(self.basis.scale_E)), np.float32)
        code_NE = self.code_NE[position_N[~is_empty_N]]
        vector_NE[~is_empty_N] = code_NE * self.basis.scale_E
        return vector_NE


def pack(folder: Path) -> None:
    """Merge codes into few files where there are more than twice as many as need be.

    A crash leaves some texts in two files, with the same codes.
    """
    vectors = TextVectors.load(folder)
    old = set(folder.glob("codes-*.safetensors"))
    rows = max(1, PACKED_BYTES // (8 + vectors.code_NE.shape[1]))
    starts = range(0, len(vectors.sorted_hash_N), rows)
    if len(old) <= 2 * len(starts):
        return
    for start in starts:
        part = slice(start, start + rows)
        codes = {"hash_N": vectors.sorted_hash_N[part], "code_NE": vectors.code_NE[part]}
        old.discard(write_shard(folder, "codes", codes, {"basis": vectors.fingerprint}))
    for path in old:
        path.unlink()


def write_shard(folder: Path, kind: str, tensors: dict[str, Any], notes: Notes) -> Path:
    """Write a file named by its `hash_N`, so that two processes never fight for a name."""
    name = hashlib.sha256(tensors["hash_N"].tobytes()).hexdigest()[:16]
    path = folder / f"{kind}-{name}.safetensors"
    write_tensors(path, tensors, notes)
    return path


def write_tensors(path: Path, tensors: dict[str, Any], notes: Notes) -> None:
    """Write a whole safetensors file, or nothing."""
    beside = path.with_name(f".{path.name}.partial")
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, beside, notes)
    os.replace(beside, path)


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], Notes]:
    """Read a file's arrays and metadata; raises DataError if it is damaged."""
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 # not a dict


def read_notes(path: Path) -> Notes:
    """Read a file's metadata; raises DataError if it is damaged."""
    with _open(path) as file:
        return file.metadata() or {}


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): delete it, and `embed` makes it again"
        ) from error
