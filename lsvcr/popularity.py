"""Decayed hourly counts, and what they say of a video: popularity, offline and online.

Shape suffixes: E pairs of an hour and a video, H half-lives, V video rows, N a block of them, O and
I outputs and inputs of a layer.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

HOUR_MS = 60 * 60 * 1000
HOURS_A_DAY = 24

HourCounts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""One hour's events: video rows and how many events each had."""

_BLOCK = 1 << 9
"""Videos at once: the layers' outputs stay in a core's cache. Always as many, and each video always
in the same column of its product, as matrix products go other ways for other widths, on some CPUs
for other columns, too: so a video's logit depends on its counts alone, to the last bit."""


def decayed_counts(
    seed_HV: NDArray[np.float32],
    seed_hour: int,
    counts_by_hour: Mapping[int, HourCounts],
    hour: int,
    half_lives_days: Sequence[float],
) -> NDArray[np.float32]:
    """Counts at the start of an hour, from a seed and the hourly counts that came after it.

    Args:
        seed_HV: Decayed counts at the start of `seed_hour`.
        seed_hour: Hours since 1970.
        counts_by_hour: Events on hours from `seed_hour` on; from `hour` on they don't count yet,
            before `seed_hour` the seed holds them.
        hour: The hour of the request; one before `seed_hour` gives the seed as it is.
        half_lives_days: H.

    Returns:
        float32 of shape (H, V).
    """
    counted = {at: counts for at, counts in counts_by_hour.items() if seed_hour <= at < hour}
    none: HourCounts = (np.empty(0, np.int64), np.empty(0, np.int64))
    row_E, count_E = map(np.concatenate, zip(none, *counted.values(), strict=True))
    age_E = np.repeat([hour - at for at in counted], [len(row) for row, _ in counted.values()])
    total_HV = np.empty(seed_HV.shape, np.float32)
    for half_life_days, seed_V, total_V in zip(half_lives_days, seed_HV, total_HV, strict=True):
        rate = 1 / (HOURS_A_DAY * half_life_days)
        count_V = seed_V * np.exp2(-rate * max(0, hour - seed_hour))
        count_V += np.bincount(row_E, count_E * np.exp2(-rate * age_E), minlength=len(count_V))
        total_V[:] = count_V
    return total_HV


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PriorLayer(_Frozen):
    """A linear map, followed by max(0, x) where another layer follows."""

    weight_OI: tuple[tuple[FiniteFloat, ...], ...] = Field(min_length=1)
    bias_O: tuple[FiniteFloat, ...]


class PriorNetwork(_Frozen):
    """What recent popularity adds to a video's logit.

    With x = log(1 + decayed counts), one for each half-life: direct · x + layers(x).
    """

    direct_H: tuple[FiniteFloat, ...] = Field(min_length=1)
    layers: tuple[PriorLayer, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        width = len(self.direct_H)
        for layer in self.layers:
            rows = {len(row) for row in layer.weight_OI}
            if rows != {width} or len(layer.bias_O) != len(layer.weight_OI):
                raise ValueError("the prior's layers do not fit one another")
            width = len(layer.bias_O)
        if width != 1:
            raise ValueError("the prior's last layer has more than one output")
        return self

    def logits_of(
        self, row_N: NDArray[np.integer], count_HN: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Logits of some videos, each once, (N,): what `logits` gives them among all."""
        place_N = _places_by_column(row_N)
        count_HV = np.zeros((len(count_HN), place_N.max(initial=-1) + 1), np.float32)
        count_HV[:, place_N] = count_HN
        return self.logits(count_HV)[place_N]

    def logits(self, count_HV: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of all videos, (V,), from their decayed counts."""
        direct_H = np.asarray(self.direct_H, np.float32)
        layers = [
            (np.asarray(layer.weight_OI, np.float32), np.asarray(layer.bias_O, np.float32)[:, None])
            for layer in self.layers
        ]
        logit_V = np.empty(count_HV.shape[1], np.float32)
        x_HN = np.zeros((len(count_HV), _BLOCK), np.float32)
        for start in range(0, len(logit_V), _BLOCK):
            part = logit_V[start : start + _BLOCK]
            np.log1p(count_HV[:, start : start + _BLOCK], out=x_HN[:, : len(part)])
            hidden_IN = x_HN
            for number, (weight_OI, bias_O1) in enumerate(layers):
                if number:
                    np.maximum(hidden_IN, 0, out=hidden_IN)
                hidden_IN = weight_OI @ hidden_IN
                hidden_IN += bias_O1
            part[:] = (direct_H @ x_HN + hidden_IN[0])[: len(part)]
        return logit_V


def _places_by_column(row_N: NDArray[np.integer]) -> NDArray[np.intp]:
    """Where rows stand in as few blocks as there may be, each in the column that is its own."""
    column_N = row_N % _BLOCK
    order_N = np.argsort(column_N, kind="stable")
    sorted_N = column_N[order_N]
    block_N = np.arange(len(row_N)) - np.searchsorted(sorted_N, sorted_N)
    place_N = np.empty(len(row_N), np.intp)
    place_N[order_N] = block_N * _BLOCK + sorted_N
    return place_N
