"""The popularity prior: what was watched lately, strictly before the hour of the request.

Shape suffixes: H half-lives, A rows of the table (one for each hour that is asked for), V video
rows, E training events in time order, S sampled targets, N their candidates, K a chunk of hours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lsvcr.popularity import HOUR_MS, HOURS_A_DAY, PriorLayer, PriorNetwork
from training.split import Prepared

LATE_EVENTS = 3
"""The prior is fitted on so many last training events of each user: users count alike."""
MOST_FITTED = 8192
NEGATIVES = 500
STEPS = 512
BATCH_TARGETS = 256
LEARNING_RATE = 3e-3
HIDDEN = (32, 32)
"""Widths of the layers between decayed counts and logit."""

MOST_ENTRIES = 1 << 30
"""Of the table in float16 (2 GiB); with more, its rows stand for 2, 4, 8, … hours."""
CHUNK_ENTRIES = 1 << 22


class PriorModel(nn.Module):
    """The prior as it is fitted: `lsvcr.popularity.PriorNetwork` says what it computes."""

    def __init__(self, half_lives: int) -> None:
        super().__init__()
        self.direct = nn.Linear(half_lives, 1, bias=False)
        widths = (half_lives, *HIDDEN, 1)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Say nothing at first: the last layer and the direct weights are zero.

        Numbers are drawn on the CPU, so that every device begins alike.
        """
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        for layer in self.layers[:-1]:
            drawn_OI = torch.empty(layer.weight.shape)
            nn.init.kaiming_uniform_(drawn_OI, nonlinearity="relu", generator=generator)
            with torch.no_grad():
                layer.weight.copy_(drawn_OI)

    def forward(self, log_count_NH: Tensor) -> Tensor:
        """(…, H) to (…)."""
        hidden_NI = self.layers[0](log_count_NH)
        for layer in self.layers[1:]:
            hidden_NI = layer(F.relu(hidden_NI))
        logit_N1: Tensor = self.direct(log_count_NH) + hidden_NI
        return logit_N1.squeeze(-1)

    def network(self) -> PriorNetwork:
        """The numbers that a bundle carries."""
        return PriorNetwork(
            direct_H=self.direct.weight[0].tolist(),
            layers=tuple(
                PriorLayer(weight_OI=layer.weight.tolist(), bias_O=layer.bias.tolist())
                for layer in self.layers
            ),
        )


@dataclass(frozen=True)
class PriorTable:
    """A logit for every video at every hour that is asked for.

    Attributes:
        row_N: Row of `logit_AV` for each video event of the timelines.
        logit_AV: float16.
    """

    row_N: Tensor
    logit_AV: Tensor


def prior_table(
    prepared: Prepared,
    half_lives_days: tuple[float, ...],
    model: PriorModel | None,
    asked_N: NDArray[np.int64],
    device: torch.device,
) -> PriorTable | None:
    """The prior at the hours of some video events; None where it is off or there are no times.

    Args:
        prepared: The data; `Prepared.is_counted_N` count, held-out events do not.
        half_lives_days: H.
        model: The fitted prior.
        asked_N: Positions of video events. Other events get an earlier row than their own, or the
            first one.
        device: Where the table is made and stays.

    Source:
        docs/model.md, Prior and profile: pop_h(v, T) = sum over training events e of v with
        hour(e) < hour(T) of 2 ** (-(hour(T) - hour(e)) / 24 h).
    """
    if model is None or not prepared.has_times:
        return None
    hour_N = prepared.timelines.video_time_N // HOUR_MS
    hours_a_row = 1
    hour_A = np.unique(hour_N[asked_N])
    while len(hour_A) * prepared.catalogue.video_count > MOST_ENTRIES:
        hours_a_row *= 2
        hour_A = np.unique(hour_N[asked_N] // hours_a_row * hours_a_row)
    logit_AV = torch.empty(
        (len(hour_A), prepared.catalogue.video_count), dtype=torch.float16, device=device
    )
    with torch.no_grad():
        for rows, log_count_KVH in log_counts(prepared, half_lives_days, hour_A, device):
            logit_AV[rows] = model.to(device)(log_count_KVH).half()
    row_N = np.maximum(np.searchsorted(hour_A, hour_N, "right") - 1, 0)
    return PriorTable(torch.from_numpy(row_N).to(device), logit_AV)


def fit_prior(
    model: PriorModel,
    prepared: Prepared,
    half_lives_days: tuple[float, ...],
    device: torch.device,
) -> None:
    """Let a prior best explain each user's late training events; without times it stays silent."""
    model.reset_parameters(torch.Generator().manual_seed(0))
    late_S = _late_targets(prepared)
    if not prepared.has_times or not len(late_S):
        return
    generator = np.random.default_rng(0)
    hour_S = prepared.timelines.video_time_N[late_S] // HOUR_MS
    video_S1 = prepared.timelines.video_N[late_S][:, None].astype(np.int64)
    core_N = np.flatnonzero(prepared.is_core_V)
    drawn_SN = generator.choice(core_N, (len(late_S), NEGATIVES))
    candidate_SN = np.concatenate([video_S1, drawn_SN], axis=1)
    # A target that was drawn again is no negative.
    is_out_SN = torch.from_numpy(candidate_SN == video_S1).to(device)
    is_out_SN[:, 0] = False
    computed_SU, place_SN = _computed_once(candidate_SN, np.union1d(core_N, video_S1))
    log_count_SUH = _log_counts_of(prepared, half_lives_days, hour_S, computed_SU, device)
    place_SNt = torch.from_numpy(place_SN).to(device)

    model.to(device).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=STEPS)
    batch = min(BATCH_TARGETS, len(late_S))
    label_S = torch.zeros(batch, dtype=torch.long, device=device)
    for _ in range(STEPS):
        chosen_S = torch.from_numpy(generator.choice(len(late_S), batch, replace=False)).to(device)
        logit_SN = model(log_count_SUH[chosen_S]).gather(1, place_SNt[chosen_S])
        loss = F.cross_entropy(logit_SN.masked_fill(is_out_SN[chosen_S], -1e4), label_S)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.requires_grad_(False)


@dataclass(frozen=True)
class PriorSeed:
    """Where live counting goes on from.

    Attributes:
        hour: Hours since 1970: the hour after the last event.
        decayed_count_HV: float32, all events, held-out ones too, decayed to its start.
    """

    hour: int
    decayed_count_HV: NDArray[np.float32]


def seed_prior(prepared: Prepared, half_lives_days: tuple[float, ...]) -> PriorSeed | None:
    """What a bundle tells of popularity; None where there is no prior."""
    if not (half_lives_days and prepared.has_times):
        return None
    hour_N = prepared.timelines.video_time_N // HOUR_MS
    hour = int(hour_N.max()) + 1
    decayed_HV = [
        np.bincount(
            prepared.timelines.video_N,
            weights=np.exp2((hour_N - hour) / (HOURS_A_DAY * half_life_days)),
            minlength=prepared.catalogue.video_count,
        )
        for half_life_days in half_lives_days
    ]
    return PriorSeed(hour, np.stack(decayed_HV).astype(np.float32))


def log_counts(
    prepared: Prepared,
    half_lives_days: tuple[float, ...],
    hour_A: NDArray[np.int64],
    device: torch.device,
) -> Iterator[tuple[slice, Tensor]]:
    """log(1 + decayed counts) of counted events at the start of some hours, in ascending order.

    Yields:
        A slice of `hour_A` and its float32 tensor (K, V, H): as many hours as fit.
    """
    is_counted_N = prepared.is_counted_N
    hour_E = prepared.timelines.video_time_N[is_counted_N] // HOUR_MS
    order_E = np.argsort(hour_E, kind="stable")
    hour_E, video_E = hour_E[order_E], prepared.timelines.video_N[is_counted_N][order_E]
    video_E = torch.from_numpy(video_E.astype(np.int64)).to(device)
    videos = prepared.catalogue.video_count
    # In float64, so that sums hardly depend on the order in which a GPU adds.
    rate_H = 1 / (HOURS_A_DAY * torch.tensor(half_lives_days, dtype=torch.float64, device=device))
    count_HV = torch.zeros((len(rate_H), videos), dtype=torch.float64, device=device)
    at, first = int(hour_E[0]), 0
    chunk = max(1, CHUNK_ENTRIES // (videos * len(rate_H)))
    for start in range(0, len(hour_A), chunk):
        hour_K = hour_A[start : start + chunk]
        after = int(np.searchsorted(hour_E, hour_K[-1], "left"))
        age_KE = torch.from_numpy(hour_K[:, None] - hour_E[None, first:after]).to(device)
        since_K = torch.from_numpy(np.maximum(hour_K - at, 0)).to(device)
        decay_HK = torch.exp2(-rate_H[:, None] * since_K)
        weight_HKE = torch.exp2(-rate_H[:, None, None] * age_KE.clamp(min=0)) * (age_KE > 0)
        count_HKV = decay_HK[:, :, None] * count_HV[:, None, :]
        count_HKV.index_add_(2, video_E[first:after], weight_HKE)
        yield slice(start, start + chunk), count_HKV.permute(1, 2, 0).log1p().float()
        count_HV, at, first = count_HKV[:, -1], max(at, int(hour_K[-1])), after


def _computed_once(
    candidate_SN: NDArray[np.int64], known_V: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What to compute a logit of, and where each candidate stands in it.

    A small catalogue is drawn from many times over: then it is computed whole, instead.

    Args:
        known_V: Every video that may be a candidate, ascending.

    Returns:
        (S, U) videos, and (S, N) columns of it.
    """
    targets, candidates = candidate_SN.shape
    if len(known_V) < candidates:
        whole_SU = np.broadcast_to(known_V, (targets, len(known_V)))
        return whole_SU.copy(), np.searchsorted(known_V, candidate_SN)
    return candidate_SN, np.broadcast_to(np.arange(candidates), candidate_SN.shape).copy()


def _log_counts_of(
    prepared: Prepared,
    half_lives_days: tuple[float, ...],
    hour_S: NDArray[np.int64],
    candidate_SN: NDArray[np.int64],
    device: torch.device,
) -> Tensor:
    """log(1 + decayed counts) of each target's candidates at its hour, (S, N, H)."""
    hour_A, row_S = np.unique(hour_S, return_inverse=True)
    candidate_SNt = torch.from_numpy(candidate_SN).to(device)
    feature_SNH = torch.empty((*candidate_SN.shape, len(half_lives_days)), device=device)
    for rows, log_count_KVH in log_counts(prepared, half_lives_days, hour_A, device):
        is_here_S = (row_S >= rows.start) & (row_S < rows.stop)
        here = torch.from_numpy(np.flatnonzero(is_here_S)).to(device)
        row = torch.from_numpy(row_S[is_here_S] - rows.start).to(device)
        feature_SNH[here] = log_count_KVH[row[:, None], candidate_SNt[here]]
    return feature_SNH


def _late_targets(prepared: Prepared) -> NDArray[np.int64]:
    """The last training events of every user, a fixed random choice of them if they are many."""
    position_S = prepared.video_targets("train")
    user_S = prepared.video_user_N[position_S]
    from_end_S = np.searchsorted(user_S, user_S, "right") - np.arange(len(user_S))
    late_S = position_S[from_end_S <= LATE_EVENTS]
    if len(late_S) > MOST_FITTED:
        late_S = np.random.default_rng(0).choice(late_S, MOST_FITTED, replace=False)
    return np.sort(late_S)
