"""Stage 2: fit the recommender on all targets, validate every epoch, keep the best."""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lsvcr.errors import DataError
from training import processes
from training.averaged_weights import AveragedWeights
from training.batches import TargetSlots, build_rows
from training.checkpoint import (
    BEST,
    new_recommender,
    read_checkpoint,
    start_from,
    write_checkpoint,
)
from training.config import FitConfig, RunConfig
from training.encoder import Recommender
from training.encoder_factor import choose_factors, folded
from training.evaluate import Evaluation
from training.losses import Objective
from training.not_finite import NotFiniteError
from training.popularity_prior import fit_prior
from training.score_parts import ScoreParts
from training.scorers import ModelScorer
from training.split import Prepared, TextTables
from training.train_step import TrainStep

LAST = Path("checkpoints", "last.safetensors")
REPORT_STEPS = 25
"""Losses are read, which makes the CPU wait for the GPU, once in so many steps."""


class Progress(Protocol):
    """Told about each step; a progress bar, or nothing."""

    def __call__(
        self, *, epoch: int, step: int, steps: int, loss: float, targets_per_s: float
    ) -> None:
        """`step` of `steps` of this epoch (from 1) is done; the others as since its begin."""


class NanLossError(Exception):
    """The loss stopped being a number.

    Attributes:
        step: Of the epoch, from 1.
        users: Numbers of the batch's users.
    """

    def __init__(self, step: int, users: list[int]) -> None:
        super().__init__(f"step {step}: the loss is not a number")
        self.step, self.users = step, users


def fit(
    prepared: Prepared,
    text: TextTables,
    config: RunConfig,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> None:
    """Train until validation stops improving; goes on where an interrupted call stopped.

    Writes `checkpoints/best.safetensors`, `checkpoints/last.safetensors` (with the optimiser's
    state, one epoch old at most) and one line per epoch to `log.jsonl`. The number of
    `processes` changes nothing but the speed, also from one call to the next.

    Raises:
        DataError: If the loss is not finite, with the step, the batch's users and the checkpoint
            that stands; or if there are no targets, or processes cannot share a batch.
    """
    processes.check_shares("fit.batch_rows", config.fit.batch_rows)
    device = pick_device(config.fit.device)
    recommender = new_recommender(config, text)
    if config.fit.start_from:
        start_from(recommender, Path(config.fit.start_from))
    recommender.to(device)
    optimizer = build_optimizer(recommender, config.fit)
    averaged = AveragedWeights(recommender, config.fit.average_decay)
    epochs_done, best, best_epoch = _resume(folder, recommender, optimizer, averaged)
    if recommender.prior is not None and not epochs_done:
        fit_prior(recommender.prior, prepared, config.model.prior_half_lives_days, device)
    processes.take_from_first([parameter.data for parameter in recommender.parameters()])

    rows = build_rows(
        prepared,
        max_history=config.model.max_history,
        targets=config.fit.targets,
        task=config.fit.task,
        device=device,
    )
    targets = rows.target_count
    if not targets:
        raise DataError(f"no training targets for fit.task = {config.fit.task!r}")
    asked_N = np.flatnonzero(prepared.video_held_out_N < 2)
    parts = ScoreParts.build(prepared, text, recommender, asked_N, device)
    evaluation = Evaluation(prepared, config, "validation")
    orders = [
        rows.batches(config.fit.batch_rows, config.fit.seed + epoch)
        for epoch in range(1, config.fit.epochs + 1)
    ]
    objective = Objective(prepared, config.fit, parts, device, TargetSlots.of(rows, orders))
    train_step = TrainStep(
        recommender,
        optimizer,
        objective,
        rows,
        config.fit.batch_rows,
        averaged=averaged,
        as_graph=device.type == "cuda",
    )
    for epoch in range(epochs_done + 1, config.fit.epochs + 1):
        if epoch - best_epoch > config.fit.patience:
            break
        started_s = time.perf_counter()
        try:
            mean_losses = train_epoch(
                train_step, orders[epoch - 1], config.fit.seed + epoch, epoch, progress
            )
        except NanLossError as error:
            raise NotFiniteError(
                f"fit: the loss of step {error.step} of epoch {epoch} is not a number",
                [prepared.user_ids[user] for user in error.users],
                checkpoint=folder / LAST,
                counted="epoch",
                lower="fit.learning_rate",
            ) from error
        trained_s = time.perf_counter() - started_s
        with averaged.in_place():
            model = ModelScorer(recommender, parts, evaluation.samples)
            if config.fit.choose_encoder_factor:
                model.factors = choose_factors(model)
            metrics = evaluation.evaluate(model)
            score = evaluation.selection_score(metrics, config.fit.task)
            if score > best:
                best, best_epoch = score, epoch
                if processes.is_first():
                    with folded(recommender, model.factors):
                        write_checkpoint(folder / BEST, recommender.state_dict(), {"epoch": epoch})
        if not processes.is_first():
            continue
        notes = {"epoch": epoch, "best": best, "best_epoch": best_epoch}
        _save_last(folder, recommender, optimizer, averaged, notes)
        _log(
            folder,
            {
                "step": "fit",
                "epoch": epoch,
                "losses": mean_losses,
                "targets_per_s": round(targets / trained_s),
                "seconds": round(time.perf_counter() - started_s, 2),
                "encoder_factor": asdict(model.factors),
                "validation": metrics,
                "is_best": best_epoch == epoch,
            },
        )


def train_epoch(
    train_step: TrainStep,
    batches_SB: Tensor,
    seed: int,
    epoch: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    """One pass over all batches.

    Returns:
        Mean of each loss over the epoch's steps.

    Raises:
        NanLossError: As soon as a loss that is not finite is seen.
    """
    train_step.recommender.train()
    train_step.begin(seed)
    steps, targets, started_s = len(batches_SB), train_step.rows.target_count, time.perf_counter()
    for step, row_B in enumerate(batches_SB, start=1):
        train_step(row_B)
        if step % REPORT_STEPS == 0 or step == steps:
            bad_step = int(train_step.first_bad_step)
            if bad_step:
                user_B = train_step.rows.user_R[batches_SB[bad_step - 1]]
                raise NanLossError(bad_step, user_B.unique().tolist())
            if progress:
                progress(
                    epoch=epoch,
                    step=step,
                    steps=steps,
                    loss=train_step.mean_losses()["total"],
                    targets_per_s=targets * step / steps / (time.perf_counter() - started_s),
                )
    return train_step.mean_losses()


def build_optimizer(recommender: Recommender, config: FitConfig) -> torch.optim.AdamW:
    """AdamW that decays the weights of linear maps only: not ids, positions, norms or biases."""
    decayed = [module.weight for module in recommender.modules() if isinstance(module, nn.Linear)]
    decayed = [parameter for parameter in decayed if parameter.requires_grad]
    chosen = {id(parameter) for parameter in decayed}
    others = [p for p in recommender.parameters() if p.requires_grad and id(p) not in chosen]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
        capturable=next(recommender.parameters()).is_cuda,  # a CUDA graph counts its steps there
    )


def pick_device(wanted: str) -> torch.device:
    """The device to train on; raises DataError if `cuda` is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DataError("fit.device = 'cuda', but this machine has no usable NVIDIA GPU")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _save_last(
    folder: Path,
    recommender: Recommender,
    optimizer: torch.optim.Optimizer,
    averaged: AveragedWeights,
    notes: dict[str, Any],
) -> None:
    tensors = {f"model.{name}": value for name, value in recommender.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in averaged.state().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    write_checkpoint(folder / LAST, tensors, notes)


def _resume(
    folder: Path,
    recommender: Recommender,
    optimizer: torch.optim.Optimizer,
    averaged: AveragedWeights,
) -> tuple[int, float, int]:
    """Load the last finished epoch, if any: (epochs done, best score, best epoch)."""
    if not (folder / LAST).exists():
        return 0, -math.inf, 0
    tensors, notes = read_checkpoint(folder / LAST)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    recommender.load_state_dict(parts["model"])
    averaged.load(parts["average"])
    state: dict[int, dict[str, Any]] = {}
    for name, value in parts["optimizer"].items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return notes["epoch"], notes["best"], notes["best_epoch"]


def _log(folder: Path, entry: dict[str, Any]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
