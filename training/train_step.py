"""One optimiser step: forward, backward, update; on a GPU replayed as one CUDA graph."""

import torch
from torch import Tensor

from training import processes
from training.averaged_weights import AveragedWeights
from training.batches import TrainingRows
from training.encoder import Recommender
from training.losses import Objective

WARM_UP_STEPS = 3


class TrainStep:
    """Trains on one batch a call, and sums its losses without waiting for the device.

    The step consists of hundreds of small kernels: launched one by one, they keep the CPU busy
    and the GPU waiting (docs/decisions/0005-one-graph-per-step.md). All shapes are fixed, so a
    GPU records them once and replays them. Of several processes, each learns from its part of a
    batch; one message adds up gradients and losses, so that all make the same step.
    """

    def __init__(
        self,
        recommender: Recommender,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        rows: TrainingRows,
        batch_rows: int,
        *,
        averaged: AveragedWeights,
        as_graph: bool,
    ) -> None:
        self.recommender, self.optimizer, self.averaged = recommender, optimizer, averaged
        self.objective, self.rows = objective, rows
        self.device = rows.video_target_RT.device
        self.generator = torch.Generator(self.device)
        self.row_B = torch.full((batch_rows,), len(rows), device=self.device)
        self.steps = torch.zeros((), dtype=torch.long, device=self.device)
        self.first_bad_step = torch.zeros((), dtype=torch.long, device=self.device)
        self.loss_sums: dict[str, Tensor] = {}
        self.graph: torch.cuda.CUDAGraph | None = None
        if as_graph:
            recommender.train()
            self.graph = self._record()

    def begin(self, seed: int) -> None:
        """Seed all that is random, and forget the losses so far."""
        torch.manual_seed(seed + (processes.rank() << 32))  # dropout
        self.generator.manual_seed(seed)
        for total in (self.steps, self.first_bad_step, *self.loss_sums.values()):
            total.zero_()

    def __call__(self, row_B: Tensor) -> None:
        """Train on the given rows; as many as in every call."""
        self.row_B.copy_(row_B)
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()

    def mean_losses(self) -> dict[str, float]:
        """Mean of each loss since `begin`; waits for the device."""
        steps = max(1, int(self.steps))
        return {name: float(total) / steps for name, total in self.loss_sums.items()}

    def _step(self) -> None:
        losses = self.objective(self.recommender, self.rows.select(self.row_B), self.generator)
        total = self.objective.total(losses)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        losses = {name: loss.detach().clone() for name, loss in {**losses, "total": total}.items()}
        gradients = [p.grad for p in self.recommender.parameters() if p.grad is not None]
        processes.add_up([*gradients, *losses.values()])
        self.optimizer.step()
        self.averaged.update()
        self.steps += 1
        is_first = ~losses["total"].isfinite() & (self.first_bad_step == 0)
        self.first_bad_step += is_first * self.steps
        for name, loss in losses.items():
            if name not in self.loss_sums:
                self.loss_sums[name] = torch.zeros((), device=self.device)
            self.loss_sums[name] += loss

    def _record(self) -> torch.cuda.CUDAGraph:
        """Record a step on the empty batch; weights and optimiser are afterwards as before."""
        kept = [*self.recommender.parameters(), *self.averaged.state().values()]
        parameters = [value.detach().clone() for value in kept]
        is_new = not self.optimizer.state
        state = [value.clone() for value in self._optimizer_tensors()]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        # NCCL's own thread may look after earlier messages meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        with torch.no_grad():
            for parameter, before in zip(kept, parameters, strict=True):
                parameter.copy_(before)
            if is_new:
                state = [torch.zeros_like(value) for value in self._optimizer_tensors()]
            for value, before in zip(self._optimizer_tensors(), state, strict=True):
                value.copy_(before)
        return graph

    def _optimizer_tensors(self) -> list[Tensor]:
        return [
            value
            for values in self.optimizer.state.values()
            for value in values.values()
            if isinstance(value, Tensor)
        ]
