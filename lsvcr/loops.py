"""The functions of this folder's C files, compiled when the package is installed."""

from collections.abc import Sequence, Sized
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

try:
    from lsvcr._encoder import count_lanes, count_weights, encode
    from lsvcr._loops import (
        build_timelines,
        choose_best,
        fill_windows,
        find_known,
        find_rows,
        latest_histories,
        rank_pairs,
        read_halves,
        read_texts,
        score_rows,
    )
    from lsvcr._nearest import count_bytes, find_nearest, shorten
except ImportError as error:
    name = (error.name or "lsvcr._loops").replace(".", "/")
    raise ImportError(
        f"{name}.c is not compiled: have a C compiler and Python's headers (Debian's gcc, "
        "libc6-dev and python3-dev) and install the package again, with pip's --force-reinstall"
    ) from error

__all__ = [
    "build_timelines",
    "choose_best",
    "count_bytes",
    "count_lanes",
    "count_weights",
    "encode",
    "fill_windows",
    "find_known",
    "find_nearest",
    "find_rows",
    "latest_histories",
    "rank_pairs",
    "read_halves",
    "read_texts",
    "score_rows",
    "shorten",
    "starts_of",
]


def starts_of(parts: Sequence[Sized]) -> NDArray[np.int64]:
    """Where each begins if they stand one after another, and where the last ends."""
    return np.array([0, *accumulate(map(len, parts))], np.int64)
