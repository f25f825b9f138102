"""How comments are compared with one another: whitened vectors and style (docs/model.md).

Shape suffixes: C comment rows, E widths of all vectors of a comment (text, trigrams), S style
numbers, F = E + S features, M comment events (of `Prepared.timelines`).

What somebody writes and likes to read shows in topic and in manner. Raw text vectors mostly
differ in a few common directions, so each component is divided by a power of its spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.split import Prepared

WHITENING = 0.75
"""Each component is divided by its standard deviation to this power."""
STYLE_SCALE = 0.6
"""Typical length of the style part, that of the text part being 1."""

AT_ONCE = 128
"""Features whose running means are made together."""

_WORDS = r"\S+"
_SHARES_OF_LETTERS = (r"\p{Lu}", r"\p{Nd}", r"[^\w\s]", r"\s", ",", "!", r"\?", r"['’]")
_SHARES_OF_WORDS = (r"\bI\b", r"\bi\b", r"\b\p{Lu}{2,}\b")
_PRESENCE = (
    r"\.\.\.|…",
    r"[\"“”]",
    r"[()]",
    r"https?://|www\.|\[\w+\]",
    r"[:;=]-?[()DPp]|\*",
    r"^\s*\p{Lu}",
    r"^\s*\p{Ll}",
    r"\.\s*$",
    r"[!?]\s*$",
    r"\w\s*$",
)

Vectors = Sequence[NDArray[np.float32]]
"""Of the same comments, kind by kind (of the text's meaning, of its spelling), each (C, width)."""


@dataclass(frozen=True)
class FeatureScales:
    """Spreads and means that features are standardised by, fitted once for a model.

    Attributes:
        text_divisor_E: Whitening in one with the typical length of each kind of vector.
        style_mean_S, style_divisor_S: Likewise of the style numbers.
        least_F, most_F: The range of the fitted comments' features and half as much on either
            side. Others are held to it: what was always the same has no spread to divide by.
    """

    text_divisor_E: NDArray[np.float32]
    style_mean_S: NDArray[np.float64]
    style_divisor_S: NDArray[np.float64]
    least_F: NDArray[np.float32]
    most_F: NDArray[np.float32]

    @classmethod
    def fit(cls, vectors: Vectors, style_CS: NDArray[np.float64]) -> Self:
        """Fit on comments that are not held out."""
        divisor_E = np.concatenate([_divisor(vector_CE) for vector_CE in vectors])
        style_length = STYLE_SCALE / np.sqrt(style_CS.shape[1])
        numbers = len(divisor_E) + style_CS.shape[1]
        unbound = cls(
            text_divisor_E=divisor_E,
            style_mean_S=style_CS.mean(0),
            style_divisor_S=np.maximum(style_CS.std(0), 1e-6) / style_length,
            least_F=np.full(numbers, -np.inf, np.float32),
            most_F=np.full(numbers, np.inf, np.float32),
        )
        fitted_CF = unbound.apply(vectors, style_CS)
        least_F, most_F = fitted_CF.min(0), fitted_CF.max(0)
        margin_F = (most_F - least_F) / 2
        return replace(unbound, least_F=least_F - margin_F, most_F=most_F + margin_F)

    def apply(self, vectors: Vectors, style_CS: NDArray[np.float64]) -> NDArray[np.float32]:
        """Features of any comments, (C, F)."""
        style_CS = (style_CS - self.style_mean_S) / self.style_divisor_S
        feature_CF = np.concatenate([style_CS.astype(np.float32), *vectors], axis=1)
        feature_CF[:, style_CS.shape[1] :] /= self.text_divisor_E
        return np.clip(feature_CF, self.least_F, self.most_F, out=feature_CF)


def _divisor(vector_CE: NDArray[np.float32]) -> NDArray[np.float32]:
    """What evens out the components' spreads and makes the vectors' typical length 1."""
    divisor_E = np.maximum(vector_CE.std(0), 1e-6) ** WHITENING
    length = np.sqrt(((vector_CE / divisor_E) ** 2).sum(1).mean())
    return divisor_E * max(float(length), 1e-6)


def fit_scales(prepared: Prepared, vectors: Vectors) -> FeatureScales:
    """Fit on the comments that are not held out, on all where all are."""
    fitted_C = ~prepared.is_held_out_comment_C
    fitted_C[0] = False
    if not fitted_C.any():
        fitted_C[:] = True
    texts = [prepared.catalogue.comment_text[row] for row in np.flatnonzero(fitted_C).tolist()]
    return FeatureScales.fit([vector_CE[fitted_C] for vector_CE in vectors], style_numbers(texts))


def comment_features(prepared: Prepared, vectors: Vectors) -> NDArray[np.float32]:
    """Features of every comment; row 0 is zero. float32 of shape (C, F)."""
    style_CS = style_numbers(list(prepared.catalogue.comment_text))
    feature_CF = fit_scales(prepared, vectors).apply(vectors, style_CS)
    feature_CF[0] = 0
    return feature_CF


def style_numbers(texts: list[str]) -> NDArray[np.float64]:
    """How texts are written, whatever they say: lengths, shares, beginnings and ends.

    Returns:
        Shape (number of texts, S), not yet standardised.
    """
    text = pl.col("text")
    letters = text.str.len_chars().clip(1)
    words = text.str.count_matches(_WORDS).clip(1)
    numbers = [
        letters.log(),
        words.log(),
        letters / words,
        (1 + text.str.count_matches(r"\n")).log(),
        *(text.str.count_matches(pattern) / letters for pattern in _SHARES_OF_LETTERS),
        *(text.str.count_matches(pattern) / words for pattern in _SHARES_OF_WORDS),
        *(text.str.contains(pattern).cast(pl.Float64) for pattern in _PRESENCE),
    ]
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    named = {f"style_{number}": expression for number, expression in enumerate(numbers)}
    return frame.select(**named).to_numpy().astype(np.float64)


@dataclass(frozen=True)
class Profiles:
    """What a user wrote or liked before each comment event, as far as it was known then.

    Attributes:
        feature_MF: float32, mean features of the earlier comments; zero without any.
        count_M: float32, how many they are.
    """

    feature_MF: NDArray[np.float32]
    count_M: NDArray[np.float32]


def profiles_before(
    prepared: Prepared, feature_CF: NDArray[np.float32], most_events: int
) -> Profiles:
    """Running means over each user's newest `most_events` comment events before each event."""
    timelines, user_M = prepared.timelines, prepared.comment_user_M
    comment_MK = timelines.comment_MK
    to_M = timelines.comments_before(user_M, timelines.comment_first_M)
    from_M = np.maximum(timelines.comment_start_U1[user_M], to_M - most_events)
    count_M = np.concatenate([[0], np.cumsum((comment_MK > 0).sum(1))])
    counts_M = (count_M[to_M] - count_M[from_M]).astype(np.float32)
    feature_MF = np.zeros((len(comment_MK), feature_CF.shape[1]), np.float32)
    for start in range(0, feature_CF.shape[1], AT_ONCE):  # sums of all features take gigabytes
        part = slice(start, start + AT_ONCE)
        sum_Mf = np.zeros((len(comment_MK) + 1, feature_MF[:, part].shape[1]))
        np.cumsum(feature_CF[:, part][comment_MK].sum(1), axis=0, out=sum_Mf[1:])
        feature_MF[:, part] = (sum_Mf[to_M] - sum_Mf[from_M]) / np.maximum(counts_M, 1)[:, None]
    return Profiles(feature_MF, counts_M)
