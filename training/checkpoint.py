"""Weights on disk: safetensors, written beside and renamed."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lsvcr.errors import DataError
from training.config import RunConfig
from training.encoder import Recommender
from training.split import TextTables

BEST = Path("checkpoints", "best.safetensors")
ALIGNED = Path("checkpoints", "aligned.safetensors")
"""The encoder's weights after stage 1, which stage 2 begins with."""
ALIGNED_LANGUAGE_MODEL = Path("checkpoints", "aligned_language_model.safetensors")
"""The language model's LoRA weights, and its map to text vectors."""
NOT_OF_STAGE_1 = ("items.id.", "items.category.", "items.gate", "profile.", "prior.", "repeat.")
"""Beginnings of the names of weights that stage 1 lacks."""


def new_recommender(config: RunConfig, text: TextTables) -> Recommender:
    """A model with fresh weights, seeded by `fit.seed`."""
    torch.manual_seed(config.fit.seed)
    tables = (text.title_VE, text.comment_CE, text.feature_CF, text.category_V)
    return Recommender(config.model, *(torch.from_numpy(table) for table in tables))


def load_recommender(run: Path, config: RunConfig, text: TextTables) -> Recommender:
    """The best model of a finished run, in evaluation mode, on the CPU.

    Raises:
        DataError: If the checkpoint is missing or does not fit the configuration.
    """
    recommender = new_recommender(config, text)
    weights, _ = read_checkpoint(run / BEST)
    _load_exactly(recommender, weights, run / BEST)
    return recommender.eval()


def start_from(recommender: Recommender, path: Path) -> None:
    """Begin with another checkpoint's weights, all but what stage 1 lacks, as ids and profile.

    Raises:
        DataError: If weights are missing, unknown or of another shape.
    """
    weights, _ = read_checkpoint(path)
    own = recommender.state_dict()
    for name in own:
        if name.startswith(NOT_OF_STAGE_1):
            weights[name] = own[name]
        elif name.endswith("position_LD") and name in weights:
            weights[name] = _grow_positions(weights[name], len(own[name]))
    _load_exactly(recommender, weights, path)


def write_checkpoint(path: Path, weights: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write tensors and JSON notes; a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(contiguous, beside, metadata={"notes": json.dumps(notes)})
    os.replace(beside, path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes that `write_checkpoint` wrote; raises DataError if unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # not a dict
            notes = json.loads((file.metadata() or {}).get("notes", "{}"))
    except (OSError, SafetensorError) as error:
        raise DataError(f"checkpoint {path} cannot be read: {error}") from error
    return weights, notes


def _grow_positions(position_LD: Tensor, rows: int) -> Tensor:
    """Add positions for longer histories: each new one is the mean of those that were trained."""
    new_rows = max(0, rows - len(position_LD))
    return torch.cat([position_LD, position_LD.mean(0, keepdim=True).expand(new_rows, -1)])


def _load_exactly(recommender: Recommender, weights: dict[str, Tensor], path: Path) -> None:
    try:
        recommender.load_state_dict(weights)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise DataError(f"checkpoint {path} does not fit this configuration: {detail}") from error
