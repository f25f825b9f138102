"""The popularity prior: what was watched lately, strictly before the day of the request.

Shape suffixes: H half-lives, A days since the first event (row a: known at the start of day a),
V video rows, S sampled targets.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lsvcr.popularity import DAY_MS, decayed_log_counts
from training.split import Prepared

LATE_EVENTS = 3
"""The weights are fitted on so many last training events of each user: users count alike."""
MOST_FITTED = 4096
NEGATIVES = 1000
RIDGE = 1e-4


@dataclass(frozen=True)
class DailyPrior:
    """A logit for every video on every day.

    Attributes:
        first_day: Days since 1970 of row 0.
        logit_AV: float16.
    """

    first_day: int
    logit_AV: Tensor

    def day_rows(self, time_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of `logit_AV` for request times."""
        return np.clip(time_ms // DAY_MS - self.first_day, 0, len(self.logit_AV) - 1)


def daily_prior(
    prepared: Prepared, half_lives_days: tuple[float, ...], weight_H: NDArray[np.float64]
) -> DailyPrior | None:
    """The prior with given weights; None where it is off or timestamps are no times.

    Source:
        docs/model.md, Prior and profile: logit += sum_h w_h log(1 + pop_h(v, T)), pop_h(v, T) =
        sum over events e of v with day(e) < day(T) of 2 ** (-(day(T) - day(e)) / h).
    """
    if not (half_lives_days and prepared.has_times):
        return None
    first_day, count_AV = _daily_counts(prepared)
    logit_AV = np.zeros(count_AV.shape, np.float32)
    for half_life_days, weight in zip(half_lives_days, weight_H, strict=True):
        logit_AV += np.float32(weight) * decayed_log_counts(count_AV, half_life_days)
    return DailyPrior(first_day, torch.from_numpy(logit_AV).half())


def fit_prior_weights(
    prepared: Prepared, half_lives_days: tuple[float, ...]
) -> NDArray[np.float64]:
    """The weights that best explain each user's late training events; zeros without times."""
    if not (half_lives_days and prepared.has_times):
        return np.zeros(len(half_lives_days))
    first_day, count_AV = _daily_counts(prepared)
    late_S = _late_targets(prepared)
    day_S = prepared.timelines.video_time_N[late_S] // DAY_MS - first_day
    video_S1 = prepared.timelines.video_N[late_S][:, None].astype(np.int64)
    core_N = np.flatnonzero(prepared.is_core_V)
    generator = np.random.default_rng(0)
    drawn_SN = generator.choice(core_N, (len(late_S), NEGATIVES))
    candidate_SN = np.concatenate([video_S1, drawn_SN], axis=1)
    feature_HSN = np.stack(
        [
            decayed_log_counts(count_AV, half_life_days)[day_S[:, None], candidate_SN]
            for half_life_days in half_lives_days
        ]
    )
    feature_HSN[:, :, 1:][:, drawn_SN == video_S1] = 0  # a target drawn again is no negative
    return _fit_weights(torch.from_numpy(feature_HSN))


@dataclass(frozen=True)
class PriorSeed:
    """Where live counting goes on from.

    Attributes:
        day: Days since 1970: the day after the last event.
        decayed_count_HV: float32, all events, held-out ones too, decayed to its start.
    """

    day: int
    decayed_count_HV: NDArray[np.float32]


def seed_prior(prepared: Prepared, half_lives_days: tuple[float, ...]) -> PriorSeed | None:
    """What a bundle tells of popularity; None where there is no prior."""
    if not (half_lives_days and prepared.has_times):
        return None
    day_N = prepared.timelines.video_time_N // DAY_MS
    day = int(day_N.max()) + 1
    decayed_HV = [
        np.bincount(
            prepared.timelines.video_N,
            weights=np.exp2((day_N - day) / half_life_days),
            minlength=prepared.catalogue.video_count,
        )
        for half_life_days in half_lives_days
    ]
    return PriorSeed(day, np.stack(decayed_HV).astype(np.float32))


def _daily_counts(prepared: Prepared) -> tuple[int, NDArray[np.float32]]:
    """The first day, and training events by day and video up to the day after the last."""
    timelines = prepared.timelines
    is_train_N = prepared.video_held_out_N == 0
    day_N = timelines.video_time_N // DAY_MS
    first_day, days = int(day_N.min()), int(day_N.max() - day_N.min()) + 2
    count_AV = np.zeros((days, prepared.catalogue.video_count), np.float32)
    np.add.at(count_AV, (day_N[is_train_N] - first_day, timelines.video_N[is_train_N]), 1)
    return first_day, count_AV


def _late_targets(prepared: Prepared) -> NDArray[np.int64]:
    """The last training events of every user, a fixed random choice of them if they are many."""
    position_S = prepared.video_targets("train")
    user_S = prepared.video_user_N[position_S]
    from_end_S = np.searchsorted(user_S, user_S, "right") - np.arange(len(user_S))
    late_S = position_S[from_end_S <= LATE_EVENTS]
    if len(late_S) > MOST_FITTED:
        late_S = np.random.default_rng(0).choice(late_S, MOST_FITTED, replace=False)
    return np.sort(late_S)


def _fit_weights(feature_HSN: Tensor) -> NDArray[np.float64]:
    """Maximise the mean log-likelihood of candidate 0 against the others."""
    weight_H = torch.zeros(len(feature_HSN), requires_grad=True)
    label_S = torch.zeros(feature_HSN.shape[1], dtype=torch.long)
    optimizer = torch.optim.LBFGS([weight_H], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logit_SN = torch.einsum("hsn,h->sn", feature_HSN, weight_H)
        loss = F.cross_entropy(logit_SN, label_S) + RIDGE * weight_H.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight_H.detach().double().numpy()
