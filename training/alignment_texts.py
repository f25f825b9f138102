"""Every text of a data set, and every fixed part of a prompt, as tokens under a number.

Shape suffixes: V and C catalogue rows, N numbers, U some distinct texts, S pieces.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from training.config import AlignConfig
from training.prompts import ENGLISH, piece_texts
from training.split import Prepared
from training.token_table import TokenTable, special_tokens, tokenize


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

    def alone(self, number_U: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is read of texts that stand alone: `piece_US` and how much of each, `length_US`."""
        begin_U, after_U = (
            np.full_like(number_U, self.pieces[name]) for name in ("begin", "after")
        )
        piece_US = np.stack([begin_U, number_U, after_U], 1)
        length_US = self.table.length_N[piece_US]
        length_US[:, 1] = self.length_N[number_U]
        return piece_US, length_US
