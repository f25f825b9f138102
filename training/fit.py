"""Stage 2: fit the recommender on all targets, validate every epoch, keep the best."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lsvcr.errors import DataError
from training.batches import TrainingRows, build_rows
from training.checkpoint import (
    BEST,
    new_recommender,
    read_checkpoint,
    start_from,
    write_checkpoint,
)
from training.config import FitConfig, RunConfig
from training.encoder import Recommender
from training.evaluate import Evaluation
from training.losses import Objective
from training.popularity_prior import fit_prior_weights
from training.score_parts import ScoreParts
from training.split import Prepared, TextTables

LAST = Path("checkpoints", "last.safetensors")


class Progress(Protocol):
    """Told about each step; a progress bar, or nothing."""

    def __call__(self, *, epoch: int, step: int, steps: int, loss: float) -> None:
        """`step` of `steps` of this epoch (from 1) is done."""


class NanLossError(DataError):
    """The loss stopped being a number."""


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
    state, one epoch old at most) and one line per epoch to `log.jsonl`.

    Raises:
        NanLossError: With the step, if the loss is not finite; the best checkpoint stands.
    """
    device = pick_device(config.fit.device)
    recommender = new_recommender(config, text)
    if config.fit.start_from:
        start_from(recommender, Path(config.fit.start_from))
    recommender.prior_weight_H.copy_(
        torch.from_numpy(fit_prior_weights(prepared, config.model.prior_half_lives_days))
    )
    recommender.to(device)
    optimizer = build_optimizer(recommender, config.fit)
    epochs_done, best, best_epoch = _resume(folder, recommender, optimizer)

    rows = build_rows(
        prepared,
        max_history=config.model.max_history,
        targets=config.fit.targets,
        task=config.fit.task,
        device=device,
    )
    targets = int((rows.video_target_RT > 0).sum() + (rows.comment_target_RT > 0).sum())
    if not targets:
        raise DataError(f"no training targets for fit.task = {config.fit.task!r}")
    parts = ScoreParts.build(prepared, text, recommender, device)
    objective = Objective(prepared, config.fit, parts, device)
    evaluation = Evaluation(prepared, config, "validation")
    for epoch in range(epochs_done + 1, config.fit.epochs + 1):
        if epoch - best_epoch > config.fit.patience:
            break
        started_s = time.perf_counter()
        mean_losses = train_epoch(
            recommender, optimizer, objective, rows, config.fit, epoch, progress
        )
        trained_s = time.perf_counter() - started_s
        metrics = evaluation.run(recommender, parts)
        score = evaluation.selection_score(metrics, config.fit.task)
        if score > best:
            best, best_epoch = score, epoch
            write_checkpoint(folder / BEST, recommender.state_dict(), {"epoch": epoch})
        _save_last(folder, recommender, optimizer, epoch, best, best_epoch)
        _log(
            folder,
            {
                "step": "fit",
                "epoch": epoch,
                "losses": mean_losses,
                "targets_per_s": round(targets / trained_s),
                "seconds": round(time.perf_counter() - started_s, 2),
                "validation": metrics,
                "is_best": best_epoch == epoch,
            },
        )


def train_epoch(
    recommender: Recommender,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    rows: TrainingRows,
    config: FitConfig,
    epoch: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    """One pass over all rows in an order that depends on seed and epoch only.

    Returns:
        Mean of each loss over the epoch's steps.

    Raises:
        NanLossError: If the epoch's summed loss is not finite.
    """
    recommender.train()
    device = rows.video_target_RT.device
    torch.manual_seed(config.seed + epoch)  # dropout
    generator = torch.Generator(device).manual_seed(config.seed + epoch)
    steps = math.ceil(len(rows) / config.batch_rows)
    sums: dict[str, Tensor] = {}
    for step, row_B in enumerate(_shuffled(len(rows), config.batch_rows, generator), start=1):
        losses = objective(recommender, rows.select(row_B), generator)
        total = objective.total(losses)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        for name, loss in {**losses, "total": total}.items():
            sums[name] = sums.get(name, 0.0) + loss.detach()
        if progress and (step % 10 == 0 or step == steps):
            progress(epoch=epoch, step=step, steps=steps, loss=float(sums["total"]) / step)
    means = {name: float(value) / steps for name, value in sums.items()}
    if not math.isfinite(means["total"]):
        raise NanLossError(
            f"the loss of epoch {epoch} is not a number: lower fit.learning_rate; the best "
            "checkpoint so far is kept"
        )
    return means


def build_optimizer(recommender: Recommender, config: FitConfig) -> torch.optim.AdamW:
    """AdamW that decays the weights of linear maps only: not ids, positions, norms or biases."""
    decayed = [module.weight for module in recommender.modules() if isinstance(module, nn.Linear)]
    chosen = {id(parameter) for parameter in decayed}
    others = [p for p in recommender.parameters() if id(p) not in chosen]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )


def pick_device(wanted: str) -> torch.device:
    """The device to train on; raises DataError if `cuda` is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DataError("fit.device = 'cuda', but this machine has no usable NVIDIA GPU")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _shuffled(rows: int, batch_rows: int, generator: torch.Generator) -> Iterator[Tensor]:
    order_R = torch.randperm(rows, generator=generator, device=generator.device)
    yield from order_R.split(batch_rows)


def _save_last(
    folder: Path,
    recommender: Recommender,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    best: float,
    best_epoch: int,
) -> None:
    weights = {f"model.{name}": value for name, value in recommender.state_dict().items()}
    state = optimizer.state_dict()["state"]
    for index, values in state.items():
        weights |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    notes = {"epoch": epoch, "best": best, "best_epoch": best_epoch}
    write_checkpoint(folder / LAST, weights, notes)


def _resume(
    folder: Path, recommender: Recommender, optimizer: torch.optim.Optimizer
) -> tuple[int, float, int]:
    """Load the last finished epoch, if any: (epochs done, best score, best epoch)."""
    if not (folder / LAST).exists():
        return 0, -math.inf, 0
    weights, notes = read_checkpoint(folder / LAST)
    model = {
        name.removeprefix("model."): value
        for name, value in weights.items()
        if name.startswith("model.")
    }
    recommender.load_state_dict(model)
    state: dict[int, dict[str, Any]] = {}
    for name, value in weights.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return notes["epoch"], notes["best"], notes["best_epoch"]


def _log(folder: Path, entry: dict[str, Any]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
