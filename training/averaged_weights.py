"""The mean of the weights over the last steps: what is validated and kept.

At a constant learning rate the weights circle around a good place; their mean lies nearer to it
(Polyak and Juditsky 1992), without a schedule that would have to know when training ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """A running mean of a module's trained weights.

    Args:
        module: Whose weights they are.
        decay: What a step keeps of the mean: it reaches back over some 1 / (1 - decay) steps.
            0: the mean is the weights themselves.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.weights = [weight for _, weight in named]
        self.means = [weight.detach().clone() for weight in self.weights]
        self.steps = torch.zeros((), device=self.weights[0].device)
        self.least_share = 1 - decay

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step; a CUDA graph may record it.

        The first steps count alike, so that the mean forgets how the weights began.
        """
        self.steps += 1
        share = (1 / self.steps).clamp(min=self.least_share)
        differences = torch._foreach_sub(self.weights, self.means)
        torch._foreach_mul_(differences, share)
        torch._foreach_add_(self.means, differences)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the means in place of the weights, while the block runs."""
        before = [weight.detach().clone() for weight in self.weights]
        _copy(self.means, self.weights)
        try:
            yield
        finally:
            _copy(before, self.weights)

    def state(self) -> dict[str, Tensor]:
        """What an interrupted training needs to go on."""
        return {"steps": self.steps, **dict(zip(self.names, self.means, strict=True))}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        _copy([state["steps"]], [self.steps])
        _copy([state[name] for name in self.names], self.means)


@torch.no_grad()
def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    for one, other in zip(source, target, strict=True):
        other.copy_(one)
