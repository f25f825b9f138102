"""Texts as tokens: each is tokenised once, then joined with others by position.

Shape suffixes: N texts, F all their tokens in a row, B rows, S pieces of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

TEXTS_AT_ONCE = 10_000
"""Tokenised in one call: enough for all cores, few enough to hold."""

Tokens = list[int]


@dataclass(frozen=True)
class TokenTable:
    """Token lists by number; number 0 is the empty list.

    Attributes:
        token_F: int32.
        start_N1: int64, list n is `token_F[start_N1[n] : start_N1[n + 1]]`.
    """

    token_F: NDArray[np.int32]
    start_N1: NDArray[np.int64]

    @classmethod
    def build(cls, tokens_N: Sequence[Tokens]) -> Self:
        """Number the lists 1, 2, …."""
        length_N = [0, *(len(tokens) for tokens in tokens_N)]
        start_N1 = np.concatenate([[0], np.cumsum(length_N, dtype=np.int64)])
        token_F = np.fromiter(
            (token for tokens in tokens_N for token in tokens), np.int32, int(start_N1[-1])
        )
        return cls(token_F, start_N1)

    @property
    def length_N(self) -> NDArray[np.int64]:
        """Tokens of each list."""
        return np.diff(self.start_N1)

    def join(
        self, piece_BS: NDArray[np.integer], length_BS: NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Join the first `length_BS` tokens of each row's lists.

        Returns:
            `token_F` of row after row, and `length_B`.
        """
        source_F = places_of(self.start_N1[piece_BS.ravel()], length_BS.ravel())
        return self.token_F[source_F], length_BS.sum(1)


def places_of(start_N: NDArray[np.integer], length_N: NDArray[np.integer]) -> NDArray[np.int64]:
    """Places of all tokens of lists that begin at given places, one list after another; (F,)."""
    before_N = np.cumsum(length_N) - length_N
    return np.arange(int(length_N.sum())) + np.repeat(start_N - before_N, length_N)


def tokenize(
    tokenizer: Any, texts: Sequence[str], max_tokens: int | None = None
) -> list[list[int]]:
    """Tokenise without special tokens, in order; longer texts are cut.

    What consists of special tokens only, as the end of a text written out, counts as empty.
    """
    tokens_N: list[Tokens] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = list(texts[start : start + TEXTS_AT_ONCE])
        cut = {} if max_tokens is None else {"truncation": True, "max_length": max_tokens}
        tokens_N += tokenizer(part, add_special_tokens=False, **cut)["input_ids"]
    return without_words_empty(tokenizer, tokens_N)


def without_words_empty(tokenizer: Any, tokens_N: list[Tokens]) -> list[Tokens]:
    """Make lists of special tokens only empty: there is nothing to learn from them."""
    special = frozenset(tokenizer.all_special_ids)
    return [[] if special.issuperset(tokens) else tokens for tokens in tokens_N]


def special_tokens(tokenizer: Any) -> tuple[Tokens, Tokens]:
    """What the tokenizer puts before and behind a text by itself."""
    bare, marked = (
        tokenizer("a", add_special_tokens=is_marked)["input_ids"] for is_marked in (False, True)
    )
    places = range(len(marked) - len(bare) + 1)
    at = next(at for at in places if marked[at : at + len(bare)] == bare)
    return marked[:at], marked[at + len(bare) :]
