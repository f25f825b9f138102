"""How texts are written, letter by letter: hashed counts of their byte trigrams.

Who wrote a text shows in the smallest pieces: endings, spacing, spelling, marks. Character n-grams
are the standard features of authorship attribution (Stamatatos 2009). Their components are kept in
the same store as those of the language model (`training.text_embedding`).

Shape suffixes: N texts, H buckets, G trigrams of some texts, P pairs of a text and a bucket in it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.text_vectors import TextBasis

BUCKETS = 2**14
NAME = f"byte-trigrams-{BUCKETS}"
BYTES_PER_TOKEN = 4
"""A text is cut where a language model would cut it, roughly."""


class ByteTrigrams:
    """Turns texts into unit vectors of hashed trigram counts; takes no training."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int,
        batch_tokens: int,
        on_batch: Callable[[Sequence[int]], None] = lambda rows: None,
    ) -> NDArray[np.float32]:
        """Count, dampen and normalise: (1 + log count) of each bucket, over its length.

        Args:
            texts: In any order; an empty text becomes a zero vector.
            max_tokens: Texts are cut behind four times as many bytes.
            batch_tokens: Of no use here.
            on_batch: Told the positions in `texts` that are done.

        Returns:
            `vector_NH`, in the order of `texts`.
        """
        row_P, bucket_P, count_P = _counts(texts, BYTES_PER_TOKEN * max_tokens)
        vector_NH = np.zeros((len(texts), BUCKETS), np.float32)
        vector_NH[row_P, bucket_P] = 1 + np.log(count_P)
        vector_NH /= np.maximum(np.linalg.norm(vector_NH, axis=1, keepdims=True), 1e-6)
        on_batch(range(len(texts)))
        return vector_NH


def fit_by_rarity(vector_NH: NDArray[np.float32], width: int) -> TextBasis:
    """Principal components of trigrams that each count by how rare they are.

    A bucket's weight is log((N + 1) / (n + 1)), n the texts that have it (inverse document
    frequency); it becomes a part of the components.
    """
    found_H = np.count_nonzero(vector_NH, axis=0)
    weight_H = np.log((len(vector_NH) + 1) / (found_H + 1)).astype(np.float32)
    weight_H[found_H == 0] = 0
    basis = TextBasis.fit(vector_NH * weight_H, width)
    return TextBasis(
        mean_H=vector_NH.mean(0, dtype=np.float64).astype(np.float32),
        components_HE=weight_H[:, None] * basis.components_HE,
        scale_E=basis.scale_E,
    )


def _counts(texts: Sequence[str], most_bytes: int) -> tuple[NDArray[np.int64], ...]:
    """How often each bucket's trigrams stand in each text, a space before and behind it.

    Returns:
        Texts, buckets and counts of all pairs that occur: `row_P`, `bucket_P`, `count_P`.
    """
    encoded = [f" {text} ".encode()[:most_bytes] if text else b"" for text in texts]
    byte_G = np.frombuffer(b"".join(encoded), np.uint8).astype(np.uint64)
    text_G = np.repeat(np.arange(len(encoded)), [len(one) for one in encoded])
    trigram_G = (byte_G[:-2] << np.uint64(16)) | (byte_G[1:-1] << np.uint64(8)) | byte_G[2:]
    bucket_G = (trigram_G * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - 14)  # 2^14 buckets
    is_within_G = text_G[2:] == text_G[:-2]
    place_G = text_G[2:][is_within_G] * BUCKETS + bucket_G[is_within_G].astype(np.int64)
    place_P, count_P = np.unique(place_G, return_counts=True)
    return place_P // BUCKETS, place_P % BUCKETS, count_P
