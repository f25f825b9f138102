"""Token sequences in rows, as a language model reads them at once.

What a step costs beside a GPU's work is the number of calls: a model of 30 layers is some 1,500
operations, however many tokens they are for. So prompts and texts share rows and are read
together.

Shape suffixes: N sequences, F all their tokens or all places of all rows, R rows, T places of a
row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.token_table import places_of

TOKENS_AT_ONCE = 65_536
"""The most that a model reads at once, padding included: its layers' memory grows with it."""
WIDTH_MULTIPLE = 8
"""Tensor cores like it, and there are fewer shapes."""
LENGTH_SHARE = 2 / 3
"""Of rows read at once that hold a sequence each, the shortest has this share of the longest."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class TokenRows:
    """Sequences that are read at once, padded with 0 on the right.

    Attributes:
        token_RT: int64.
        position_RT: int64 place of each token in its own sequence, by which a model keeps the
            sequences of a row apart; None where each row holds one.
    """

    token_RT: Tensor
    position_RT: Tensor | None

    def to(self, device: torch.device) -> "TokenRows":
        """Copy to a device."""
        return TokenRows(
            on_device(self.token_RT, device),
            None if self.position_RT is None else on_device(self.position_RT, device),
        )


@dataclass(frozen=True)
class Layout:
    """Where sequences stand.

    Attributes:
        shapes: Rows and places of all that is read at once, one after another.
        start_N: Place of each sequence's first token in all rows joined.
        is_shared: Whether rows may hold several sequences.
    """

    shapes: list[tuple[int, int]]
    start_N: Numbers
    is_shared: bool

    def fill(self, token_F: NDArray[np.integer], length_N: Numbers) -> list[TokenRows]:
        """Put tokens, sequence after sequence, into rows."""
        places = sum(rows * width for rows, width in self.shapes)
        all_token_F = np.zeros(places, np.int64)
        all_token_F[places_of(self.start_N, length_N)] = token_F
        ends = np.cumsum([rows * width for rows, width in self.shapes])[:-1]
        tokens = np.split(all_token_F, ends)
        positions: list[Numbers | None] = [None] * len(tokens)
        if self.is_shared:
            start_F = np.zeros(places, np.int64)
            start_F[self.start_N] = self.start_N
            positions = [*np.split(np.arange(places) - np.maximum.accumulate(start_F), ends)]
        return [
            TokenRows(
                torch.from_numpy(token_F.reshape(shape)),
                None if position_F is None else torch.from_numpy(position_F.reshape(shape)),
            )
            for token_F, position_F, shape in zip(tokens, positions, self.shapes, strict=True)
        ]


LayOut = Callable[[Numbers], Layout]
"""Decides by their lengths, none of them 0, where sequences stand."""


def shared_rows(length_N: Numbers) -> Layout:
    """As few rows as wide as the longest sequence as hold all, the longest first."""
    order_N = np.argsort(-length_N, kind="stable")
    end_N = np.cumsum(length_N[order_N])
    begin_N = end_N - length_N[order_N]
    width = int(_rounded(length_N).max())
    first_R = [0]
    while True:
        behind = int(np.searchsorted(end_N, begin_N[first_R[-1]] + width, "right"))
        if behind == len(order_N):
            break
        first_R.append(behind)
    sequences_R = np.diff([*first_R, len(order_N)])
    row_N = np.repeat(np.arange(len(first_R)), sequences_R)
    start_N = np.empty_like(order_N)
    start_N[order_N] = row_N * width + begin_N - np.repeat(begin_N[first_R], sequences_R)
    return Layout(_parts(len(first_R), width), start_N, is_shared=True)


def own_rows(length_N: Numbers) -> Layout:
    """A row for each sequence, read together with those of similar length, the longest first.

    For models that don't keep sequences of a row apart.
    """
    order_N = np.argsort(-length_N, kind="stable")
    width_N = _rounded(length_N[order_N])
    shapes: list[tuple[int, int]] = []
    starts, places, done = [], 0, 0
    while done < len(order_N):
        width = int(width_N[done])
        alike = int((width_N[done:] >= LENGTH_SHARE * width).sum())
        starts.append(places + np.arange(alike) * width)
        shapes += _parts(alike, width)
        places, done = places + alike * width, done + alike
    start_N = np.empty_like(order_N)
    start_N[order_N] = np.concatenate(starts)
    return Layout(shapes, start_N, is_shared=False)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device, without waiting for it where it is a GPU."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _rounded(length_N: Numbers) -> Numbers:
    return length_N + -length_N % WIDTH_MULTIPLE


def _parts(rows: int, width: int) -> list[tuple[int, int]]:
    """Shapes of at most `TOKENS_AT_ONCE` places that make up so many rows."""
    most = max(1, TOKENS_AT_ONCE // width)
    return [(min(most, rows - first), width) for first in range(0, rows, most)]
