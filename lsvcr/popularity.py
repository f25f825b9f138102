"""Decayed daily counts: how popularity is measured, offline and online.

Shape suffixes: A consecutive days, H half-lives, V video rows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

DAY_MS = 24 * 60 * 60 * 1000


def decayed_counts(
    seed_HV: NDArray[np.float32],
    seed_day: int,
    count_V_by_day: Mapping[int, NDArray[np.float32]],
    day: int,
    half_lives_days: Sequence[float],
) -> NDArray[np.float32]:
    """Counts at the start of a day, from a seed and the daily counts that came after it.

    Args:
        seed_HV: Decayed counts at the start of `seed_day`.
        seed_day: Days since 1970.
        count_V_by_day: Events by video on days from `seed_day` on; later or equal to `day` they
            don't count yet, before `seed_day` the seed holds them.
        day: The day of the request; a day before `seed_day` gives the seed as it is.
        half_lives_days: H.

    Returns:
        float32 of shape (H, V).
    """
    rate_H1 = 1 / np.asarray(half_lives_days, np.float64)[:, None]
    total_HV = seed_HV * np.exp2(-rate_H1 * max(0, day - seed_day))
    for counted_day, count_V in count_V_by_day.items():
        if seed_day <= counted_day < day:
            total_HV = total_HV + count_V * np.exp2(-rate_H1 * (day - counted_day))
    return total_HV.astype(np.float32)


def decayed_log_counts(count_AV: NDArray[np.float32], half_life_days: float) -> NDArray[np.float32]:
    """log(1 + decayed count) at the start of each day: events of earlier days only.

    Returns:
        float32 of shape (A, V); day a's event counts 2 ** (-(b - a) / half-life) on day b > a.
    """
    feature_AV = np.zeros(count_AV.shape, np.float32)
    decay = np.float32(2 ** (-1 / half_life_days))
    for day in range(1, len(count_AV)):
        feature_AV[day] = (feature_AV[day - 1] + count_AV[day - 1]) * decay
    return np.log1p(feature_AV, out=feature_AV)
