"""Windows of history with the targets to predict from them, as tensors on one device.

Shape suffixes: R rows of the whole training set, B rows of a batch, S batches, G processes, T
targets a row, P own comments, U users; others as in `lsvcr.history`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsvcr.history import NEVER, HistoryBatch
from training import processes
from training.encoder import HistoryTensors
from training.split import Prepared


@dataclass(frozen=True)
class Targets:
    """Targets of one kind: who is asked, when, and for what.

    Attributes:
        user_T: int64 user numbers.
        cut_T: int64 orders; only what lies before may be used.
        video_T: int32: the video to find, or the video on screen.
        own_comment_TP: int32 comments to find, 0 = none; all 0 for video targets.
        event_T: int64 positions in `prepared.timelines`.
    """

    user_T: NDArray[np.int64]
    cut_T: NDArray[np.int64]
    video_T: NDArray[np.int32]
    own_comment_TP: NDArray[np.int32]
    event_T: NDArray[np.int64]

    @classmethod
    def of_videos(cls, prepared: Prepared, position_T: NDArray[np.int64]) -> Self:
        """Video events of `prepared.timelines` as targets."""
        return cls(
            prepared.video_user_N[position_T],
            prepared.timelines.video_order_N[position_T].astype(np.int64),
            prepared.timelines.video_N[position_T],
            np.zeros((len(position_T), prepared.own_comment_MP.shape[1]), np.int32),
            position_T,
        )

    @classmethod
    def of_comments(cls, prepared: Prepared, position_T: NDArray[np.int64]) -> Self:
        """Comment events of `prepared.timelines` as targets."""
        return cls(
            prepared.comment_user_M[position_T],
            prepared.timelines.comment_first_M[position_T].astype(np.int64),
            prepared.timelines.comment_video_M[position_T],
            prepared.own_comment_MP[position_T],
            position_T,
        )

    def history(self, prepared: Prepared, max_history: int) -> HistoryBatch:
        """What is known before each target: one row per target."""
        return prepared.timelines.windows_before(self.user_T, self.cut_T, max_history)


@dataclass(frozen=True)
class TrainingRows:
    """Rows of history, each with up to T targets of either kind; video 0 = no target.

    One row more than `len` says is empty: it fills up the last batch.

    Attributes:
        history: (R, …).
        user_R: int64 user numbers.
        video_target_RT, video_cut_RT: int32.
        comment_target_RT, comment_cut_RT: int32; the target is the video on screen.
        own_comment_RTP: int32, the comments to find there.
        video_event_RT, comment_event_RT: int32 positions of the targets in the timelines.
    """

    history: HistoryTensors
    user_R: Tensor
    video_target_RT: Tensor
    video_cut_RT: Tensor
    comment_target_RT: Tensor
    comment_cut_RT: Tensor
    own_comment_RTP: Tensor
    video_event_RT: Tensor
    comment_event_RT: Tensor

    def __len__(self) -> int:
        return len(self.video_target_RT) - 1

    @property
    def target_count(self) -> int:
        """Targets of all rows; waits for the device."""
        return int((self.video_target_RT > 0).sum() + (self.comment_target_RT > 0).sum())

    def batches(self, batch_rows: int, seed: int) -> Tensor:
        """All rows in an order that depends on the seed only, (batches, batch_rows)."""
        device = self.video_target_RT.device
        generator = torch.Generator(device).manual_seed(seed)
        order_R = torch.randperm(len(self), generator=generator, device=device)
        missing = -len(self) % batch_rows
        return torch.cat([order_R, order_R.new_full((missing,), len(self))]).view(-1, batch_rows)

    def select(self, row_B: Tensor | slice) -> "TrainingRows":
        """The batch of the given rows, or a part of it."""
        chosen = {
            field.name: getattr(self, field.name)[row_B]
            for field in fields(self)
            if field.name != "history"
        }
        return TrainingRows(history=select(self.history, row_B), **chosen)


@dataclass(frozen=True)
class TargetSlots:
    """How many targets of each kind a process's part of a batch must have room for."""

    videos: int
    comments: int

    @classmethod
    def of(cls, rows: TrainingRows, batches: Iterable[Tensor]) -> Self:
        """Room for the fullest part of some batches."""
        video_R, comment_R = (
            (target_RT > 0).sum(1) for target_RT in (rows.video_target_RT, rows.comment_target_RT)
        )
        most_2 = torch.zeros(2, dtype=torch.long, device=video_R.device)
        for row_SB in batches:
            row_SGB = row_SB.view(len(row_SB), processes.count(), -1)
            counts = [count_R[row_SGB].sum(-1).max() for count_R in (video_R, comment_R)]
            most_2 = most_2.maximum(torch.stack(counts))
        return cls(*most_2.tolist())


def build_rows(
    prepared: Prepared,
    *,
    max_history: int,
    targets: Literal["prefix", "single"],
    task: Literal["joint", "video", "comment"],
    device: torch.device,
) -> TrainingRows:
    """All training targets, put into rows.

    Args:
        prepared: The data.
        max_history: L.
        targets: `prefix`: one row per window of a user's history; half a window of targets a row
            (a whole one for the first), so that each sees at least L / 2 events where the user
            has them. `single`: one row per target, the paper's way.
        task: Which targets to include.
        device: Where the tensors live.
    """
    videos = Targets.of_videos(prepared, prepared.video_targets("train"))
    comments = Targets.of_comments(prepared, prepared.comment_targets("train"))
    nothing = np.zeros(0, np.int64)
    if task == "comment":
        videos = Targets.of_videos(prepared, nothing)
    if task == "video":
        comments = Targets.of_comments(prepared, nothing)
    kinds = (videos, comments)
    if targets == "single":
        row_of_kind = np.split(
            np.arange(sum(len(kind.cut_T) for kind in kinds)), [len(videos.cut_T)]
        )
    else:
        row_of_kind = _window_rows(prepared, kinds, max_history)
    user_T = np.concatenate([kind.user_T for kind in kinds])
    cut_T = np.concatenate([kind.cut_T for kind in kinds])
    row_T = np.concatenate(row_of_kind)
    rows = int(row_T.max(initial=-1)) + 2  # the last stays empty
    cut_R = np.zeros(rows, np.int64)
    np.maximum.at(cut_R, row_T, cut_T)
    user_R = np.zeros(rows, np.int64)
    user_R[row_T] = user_T
    history = prepared.timelines.windows_before(user_R, cut_R, max_history)
    video_slots, comment_slots = map(_slots_in_rows, row_of_kind)

    def place(values_T: NDArray[np.integer], row_T: NDArray[np.int64], slots: "_Slots") -> Tensor:
        placed = np.zeros((rows, slots.width, *values_T.shape[1:]), np.int32)
        placed[row_T, slots.slot_T] = values_T
        return torch.from_numpy(placed).to(device)

    return TrainingRows(
        history=to_tensors(history, device),
        user_R=torch.from_numpy(user_R).to(device),
        video_target_RT=place(videos.video_T, row_of_kind[0], video_slots),
        video_cut_RT=place(videos.cut_T, row_of_kind[0], video_slots),
        comment_target_RT=place(comments.video_T, row_of_kind[1], comment_slots),
        comment_cut_RT=place(comments.cut_T, row_of_kind[1], comment_slots),
        own_comment_RTP=place(comments.own_comment_TP, row_of_kind[1], comment_slots),
        video_event_RT=place(videos.event_T, row_of_kind[0], video_slots),
        comment_event_RT=place(comments.event_T, row_of_kind[1], comment_slots),
    )


def to_tensors(history: HistoryBatch, device: torch.device) -> HistoryTensors:
    """Copy a batch to a device."""
    return HistoryTensors(
        **{
            field.name: torch.from_numpy(getattr(history, field.name)).to(device)
            for field in fields(HistoryTensors)
        }
    )


@dataclass(frozen=True)
class _Slots:
    slot_T: NDArray[np.int64]
    width: int


def _slots_in_rows(row_T: NDArray[np.int64]) -> _Slots:
    """Number the targets of each row 0, 1, …."""
    order_T = np.argsort(row_T, kind="stable")
    sorted_T = row_T[order_T]
    slot_T = np.empty(len(row_T), np.int64)
    slot_T[order_T] = np.arange(len(row_T)) - np.searchsorted(sorted_T, sorted_T)
    return _Slots(slot_T, int(slot_T.max(initial=-1)) + 1)


def _window_rows(
    prepared: Prepared, kinds: tuple[Targets, Targets], max_history: int
) -> list[NDArray[np.int64]]:
    """Assign targets to windows that advance by at most half a history a side."""
    timelines = prepared.timelines
    bounds: list[tuple[int, int]] = []
    for user in range(len(prepared.user_ids)):
        video_order = timelines.video_order_N[slice(*timelines.video_start_U1[user : user + 2])]
        first = timelines.comment_first_M[slice(*timelines.comment_start_U1[user : user + 2])]
        user_bounds = _window_bounds(video_order, np.sort(first), max_history)
        bounds.extend((user, bound) for bound in user_bounds)
    bound_W = _keyed(*np.array(bounds, np.int64).T)
    window_T = np.concatenate(
        [np.searchsorted(bound_W, _keyed(kind.user_T, kind.cut_T), "right") for kind in kinds]
    )
    row_T = np.unique(window_T, return_inverse=True)[1]  # a window without targets gets no row
    return np.split(row_T, [len(kinds[0].cut_T)])


def _window_bounds(
    video_order: NDArray[np.integer], comment_first: NDArray[np.integer], max_history: int
) -> list[int]:
    """Cuts that separate one user's windows; a target belongs to the first bound above it."""
    bounds = []
    videos = comments = 0
    step = max_history
    while True:
        bound = min(
            int(video_order[videos + step]) if videos + step < len(video_order) else NEVER,
            int(comment_first[comments + step]) if comments + step < len(comment_first) else NEVER,
        )
        bounds.append(bound)
        if bound == NEVER:
            return bounds
        videos = int(np.searchsorted(video_order, bound))
        comments = int(np.searchsorted(comment_first, bound))
        step = max(1, max_history // 2)


def _keyed(user_T: NDArray[np.integer], cut_T: NDArray[np.integer]) -> NDArray[np.int64]:
    return user_T.astype(np.int64) * (NEVER + 1) + cut_T


def select(history: HistoryTensors, row_B: Tensor | slice) -> HistoryTensors:
    """Some rows of a history."""
    return HistoryTensors(
        **{field.name: getattr(history, field.name)[row_B] for field in fields(history)}
    )
