"""The losses of stage 1 (docs/model.md, Stage 1).

Shape suffixes: B samples of a batch, G samples of all GPUs, M remembered ones, N = G + M that
serve as negatives, D model width. All vectors have length 1.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from training.alignment_model import Preferences
from training.config import AlignConfig


@dataclass(frozen=True)
class Keys:
    """What a batch is contrasted with: itself, other GPUs' batches, and earlier ones.

    Attributes:
        llm_ND, own_ND, target_ND: As in `Preferences`.
        target_number_N: Equal where targets are equal.
        position_B: Where the batch's own samples stand.
    """

    llm_ND: Tensor
    own_ND: Tensor
    target_ND: Tensor
    target_number_N: Tensor
    position_B: Tensor


class Memory:
    """The vectors of the last samples, as more negatives than a batch has.

    Source:
        Cross-batch memory (Wang et al., arXiv:1912.06798). They are as old as they are few, and
        no gradient flows into them.
    """

    def __init__(self, samples: int, width: int, device: torch.device) -> None:
        self.samples = samples
        self.vector_3MD = torch.zeros(3, 0, width, device=device)
        self.target_number_M = torch.zeros(0, dtype=torch.int64, device=device)

    def extend(self, batch: Preferences, target_number_B: Tensor) -> Keys:
        """Keys for a batch, which is then remembered itself."""
        vector_3BD = torch.stack([batch.llm_BD, batch.own_BD, batch.target_BD])
        vector_3GD, target_number_G, position_B = _gather(vector_3BD, target_number_B)
        vector_3ND = torch.cat([vector_3GD, self.vector_3MD], 1)
        target_number_N = torch.cat([target_number_G, self.target_number_M])
        self.vector_3MD = vector_3ND.detach()[:, : self.samples]
        self.target_number_M = target_number_N[: self.samples]
        return Keys(*vector_3ND, target_number_N, position_B)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold."""
        return {"vectors": self.vector_3MD, "targets": self.target_number_M}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on with what `state` returned."""
        device = self.vector_3MD.device
        self.vector_3MD = state["vectors"].to(device)
        self.target_number_M = state["targets"].to(device)


def alignment_losses(
    batch: Preferences, target_number_B: Tensor, keys: Keys, temperature: float
) -> dict[str, Tensor]:
    """Mean losses by name.

    Returns:
        `response` (L_LM), `target` (L_TGT), `match` (L_SSC: the encoder's and the language
        model's preference of a sample find each other) and `side` (L_VCC).

    Source:
        LSVCR (arXiv:2403.13574), stage 1. Departures: samples with the same target are no
        negatives of one another, and samples of earlier steps may serve as negatives.
    """

    def contrast(query_BD: Tensor, key_ND: Tensor) -> Tensor:
        is_twin_BN = target_number_B[:, None] == keys.target_number_N
        return info_nce(query_BD, key_ND, keys.position_B, is_twin_BN, temperature)

    return {
        "response": batch.response_loss,
        "target": contrast(batch.own_BD, keys.target_ND),
        "match": (contrast(batch.own_BD, keys.llm_ND) + contrast(batch.llm_BD, keys.own_ND)) / 2,
        "side": side_contrast(batch.llm_BD, batch.own_BD, batch.other_BD, temperature),
    }


def total_loss(losses: dict[str, Tensor], config: AlignConfig) -> Tensor:
    """L_LM + w_t L_TGT + w_c (L_SSC + L_VCC)."""
    return (
        losses["response"]
        + config.target_weight * losses["target"]
        + config.contrast_weight * (losses["match"] + losses["side"])
    )


def info_nce(
    query_BD: Tensor,
    key_ND: Tensor,
    positive_B: Tensor,
    is_twin_BN: Tensor,
    temperature: float,
) -> Tensor:
    """Mean of -log( e^(q·k⁺/τ) / Σ e^(q·k/τ) ), the sum over the positive and all but twins.

    Args:
        query_BD: Unit vectors.
        key_ND: Unit vectors.
        positive_B: Which key is right.
        is_twin_BN: Keys that are no negatives, as they are right, too.
        temperature: τ.
    """
    is_out_BN = is_twin_BN.scatter(1, positive_B[:, None], False)
    logit_BN = (query_BD @ key_ND.T / temperature).masked_fill(is_out_BN, -torch.inf)
    return F.cross_entropy(logit_BN, positive_B)


def side_contrast(llm_BD: Tensor, own_BD: Tensor, other_BD: Tensor, temperature: float) -> Tensor:
    """Mean of -log( e^(l·s/τ) / (e^(l·s/τ) + e^(l·o/τ)) ).

    The language model was asked about one side, so it should agree with that side's preference
    rather than with the other's.
    """
    margin_B = ((llm_BD * own_BD).sum(1) - (llm_BD * other_BD).sum(1)) / temperature
    return F.softplus(-margin_B).mean()


def _gather(vector_3BD: Tensor, target_number_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of all GPUs in a batch's order, with gradients, and where this one's stand.

    Each GPU has every n-th sample of the batch.
    """
    device = target_number_B.device
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return vector_3BD, target_number_B, torch.arange(len(target_number_B), device=device)
    vector_3GD = _GatherWithGradient.apply(vector_3BD)
    target_number_G = torch.stack(_gathered(target_number_B), 1).flatten()
    position_B = torch.arange(
        dist.get_rank(), len(target_number_G), dist.get_world_size(), device=device
    )
    return vector_3GD, target_number_G, position_B


class _GatherWithGradient(torch.autograd.Function):
    """Join all processes' vectors, one of each in turn.

    Each gets back the gradients that all have for its own. All processes' gradients of the
    weights are added up afterwards.
    """

    @staticmethod
    def forward(context: Any, vector_3BD: Tensor) -> Tensor:
        return torch.stack(_gathered(vector_3BD), 2).flatten(1, 2)

    @staticmethod
    def backward(context: Any, gradient_3GD: Tensor) -> Tensor:
        gradient_3GD = gradient_3GD.contiguous()
        dist.all_reduce(gradient_3GD)
        return gradient_3GD[:, dist.get_rank() :: dist.get_world_size()]


def _gathered(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return parts
