"""Every text of a data set, and every fixed part of a prompt, as tokens under a number.

Shape suffixes: V and C catalogue rows, N numbers, U some distinct texts, B texts of a part, T
tokens, S pieces.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config import AlignConfig
from training.prompts import ENGLISH, piece_texts
from training.split import Prepared
from training.token_table import TokenTable, special_tokens, tokenize

LENGTH_MULTIPLE = 8
"""Of padded lengths: tensor cores like it, and there are fewer shapes."""
PART_TOKENS = 32_768
"""Most tokens of a part, padding included."""
LENGTH_SHARE = 2 / 3
"""A part's shortest text has at least this share of its longest: little padding, few parts."""


@dataclass(frozen=True)
class TokenBatch:
    """Token sequences, padded with 0 on the right: `token_BT` and `length_B`, int64."""

    token_BT: Tensor
    length_B: Tensor


@dataclass(frozen=True)
class AlignmentTexts:
    """Numbers of titles and comments; 0 = none, or nothing is left of it as tokens.

    Attributes:
        table: Tokens by number.
        pieces: Numbers of `prompts.piece_texts`, of `begin` and `after` (what the tokenizer puts
            around a text) and of `end` (what ends a response).
        title_V, comment_C: Number by catalogue row; equal texts share one.
        length_N: Tokens of each text that are read when it stands alone.
    """

    table: TokenTable
    pieces: dict[str, int]
    title_V: NDArray[np.int64]
    comment_C: NDArray[np.int64]
    length_N: NDArray[np.int64]

    @classmethod
    def of(cls, prepared: Prepared, config: AlignConfig, tokenizer: Any) -> Self:
        """Tokenise each distinct text once."""
        titles, comments = prepared.texts()
        worded = piece_texts(ENGLISH, config.max_history)
        begin, after = special_tokens(tokenizer)
        end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        fixed = [*tokenize(tokenizer, list(worded.values())), begin, after, end]
        names = (*worded, "begin", "after", "end")
        distinct = list(dict.fromkeys((*titles, *comments)))
        most = max(config.text_tokens, config.response_tokens)
        table = TokenTable.build([*fixed, *tokenize(tokenizer, distinct, most)])
        number_of = {text: number for number, text in enumerate(distinct, start=1 + len(fixed))}

        def numbers(texts: list[str]) -> NDArray[np.int64]:
            number_N = np.fromiter((number_of[text] for text in texts), np.int64, len(texts))
            return np.where(table.length_N[number_N] > 0, number_N, 0)

        room = max(1, config.text_tokens - len(begin) - len(after))
        return cls(
            table=table,
            pieces={name: number for number, name in enumerate(names, start=1)},
            title_V=numbers(titles),
            comment_C=numbers(comments),
            length_N=np.minimum(table.length_N, room),
        )

    def parts(self, number_U: NDArray[np.int64]) -> tuple[list[TokenBatch], NDArray[np.int64]]:
        """Texts that stand alone, in parts of similar length, the longest first.

        Returns:
            The parts, and the position that each text has in them together, from 1.
        """
        order_U = np.argsort(-self.length_N[number_U], kind="stable")
        position_U = np.empty(len(number_U), np.int64)
        position_U[order_U] = np.arange(1, len(number_U) + 1)
        sorted_U = number_U[order_U]
        begin, after = self.pieces["begin"], self.pieces["after"]
        around = int(self.table.length_N[[begin, after]].sum())
        parts = []
        while len(sorted_U):
            padded_U = self.length_N[sorted_U] + around
            padded_U += -padded_U % LENGTH_MULTIPLE
            alike = int((padded_U >= LENGTH_SHARE * padded_U[0]).sum())
            size = max(1, min(alike, PART_TOKENS // int(padded_U[0])))
            text_B, sorted_U = sorted_U[:size], sorted_U[size:]
            begin_B, after_B = np.full_like(text_B, begin), np.full_like(text_B, after)
            piece_BS = np.stack([begin_B, text_B, after_B], 1)
            length_BS = self.table.length_N[piece_BS]
            length_BS[:, 1] = self.length_N[text_B]
            parts.append(token_batch(self.table, piece_BS, length_BS))
        return parts, position_U


def token_batch(
    table: TokenTable, piece_BS: NDArray[np.int64], length_BS: NDArray[np.int64]
) -> TokenBatch:
    """Join pieces, as tensors on the CPU."""
    token_BT, length_B = table.join(piece_BS, length_BS)
    token_BT = np.pad(token_BT, ((0, 0), (0, -token_BT.shape[1] % LENGTH_MULTIPLE)))
    return TokenBatch(torch.from_numpy(token_BT), torch.from_numpy(length_B))
