"""Stage 1: align what the language model and the encoder say a user prefers."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from training import processes
from training.alignment_batches import AlignmentBatch
from training.alignment_losses import Memory, alignment_losses, total_loss
from training.alignment_model import AlignmentModel
from training.alignment_samples import AlignmentSamples
from training.alignment_texts import AlignmentTexts
from training.checkpoint import (
    ALIGNED,
    ALIGNED_LANGUAGE_MODEL,
    read_checkpoint,
    write_checkpoint,
)
from training.config import AlignConfig, RunConfig
from training.fit import pick_device
from training.not_finite import NotFiniteError
from training.preference_llm import CausalModel, PreferenceLLM, keeps_sequences_apart
from training.split import Prepared
from training.token_rows import own_rows, shared_rows

LAST = Path("checkpoints", "last_alignment.safetensors")
"""Everything that an interrupted run needs to go on; to be deleted once the step is finished."""


class Progress(Protocol):
    """Told about each step; a progress bar, or nothing."""

    def __call__(self, *, step: int, steps: int, losses: dict[str, float], tokens: int) -> None:
        """`step` of all `steps` (from 1) is done; the language model read `tokens` tokens."""


def align(
    prepared: Prepared,
    config: RunConfig,
    folder: Path,
    *,
    load_model: Callable[[torch.device], CausalModel],
    progress: Progress = lambda *, step, steps, losses, tokens: None,
) -> None:
    """Train until all epochs are done; goes on where an interrupted call stopped.

    Each of several `processes` reads its part of every batch, and all share their negatives, so
    that their number changes nothing but the speed. Writes `LAST` now and then and after the last
    step, then `ALIGNED` and `ALIGNED_LANGUAGE_MODEL`: called again, it repeats no step.

    Raises:
        DataError: If there is nothing to learn from, or prompts cannot fit.
        NotFiniteError: With the step, the batch's users and the checkpoint that stands.
    """
    device = pick_device(config.fit.device)
    torch.manual_seed(config.fit.seed)
    causal = load_model(device)
    samples = AlignmentSamples(
        prepared,
        AlignmentTexts.of(prepared, config.align, causal.tokenizer),
        config.align,
        config.model,
        context_tokens=causal.context_tokens,
        lay_out=shared_rows if keeps_sequences_apart(causal.transformer) else own_rows,
        seed=config.fit.seed,
    )
    model = AlignmentModel(PreferenceLLM(causal.transformer, config.align), config)
    _Training(model.to(device), samples, config, folder, device).run(progress)


class _Training:
    """The state of a running alignment."""

    def __init__(
        self,
        model: AlignmentModel,
        samples: AlignmentSamples,
        config: RunConfig,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.model, self.samples, self.device = model, samples, device
        self.config, self.seed, self.folder = config.align, config.fit.seed, folder
        self.temperature = config.model.temperature
        self.memory = Memory(config.align.memory, config.model.width, device)
        self.trained = model.trained_weights()
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=config.align.learning_rate, weight_decay=0.0, fused=True
        )
        processes.check_shares("align.batch_samples", samples.batch_size)
        self.steps_per_epoch = max(1, samples.batch_count // config.align.accumulate)
        self.steps = self.steps_per_epoch * config.align.epochs

    def run(self, progress: Progress) -> None:
        done = self._resume()
        processes.take_from_first([weight.data for weight in self.trained.values()])
        self.model.train()
        for step, batches in enumerate(self._steps(done), start=done + 1):
            losses, tokens = self._step(step, batches)
            progress(step=step, steps=self.steps, losses=losses, tokens=tokens)
            if step % self.config.checkpoint_steps == 0 or step == self.steps:
                self._save(step)
        if processes.is_first():
            write_checkpoint(self.folder / ALIGNED_LANGUAGE_MODEL, self._text_weights(), {})
            write_checkpoint(self.folder / ALIGNED, self.model.encoder_weights(), {})
        processes.wait_for_all()

    def _steps(self, done: int) -> Iterator[list[AlignmentBatch]]:
        """This process's part of the batches of each step that is left."""
        for epoch in range(done // self.steps_per_epoch, self.config.epochs):
            first = done % self.steps_per_epoch if epoch == done // self.steps_per_epoch else 0
            batches = self.samples.batches(
                epoch,
                start=first * self.config.accumulate,
                part=processes.rank(),
                parts=processes.count(),
            )
            for _ in range(first, self.steps_per_epoch):
                # an epoch of fewer batches than a step has ends early
                together = itertools.islice(batches, self.config.accumulate)
                yield [batch.to(self.device) for batch in together]

    def _step(self, step: int, batches: list[AlignmentBatch]) -> tuple[dict[str, float], int]:
        """Learn from a step's batches.

        Returns:
            Mean losses and the length of the gradient, `gradient`; the tokens read. Both are
            those of all processes.
        """
        torch.manual_seed(self.seed + step + (processes.rank() << 32))  # dropout
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.config)
        share = 1 / (len(batches) * processes.count())
        means: dict[str, Tensor] = {}
        for batch in batches:
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
            ):
                preferences = self.model(batch)
            keys = self.memory.extend(preferences, batch.target_number_B)
            losses = alignment_losses(preferences, batch.target_number_B, keys, self.temperature)
            losses["total"] = total_loss(losses, self.config)
            (losses["total"] * share).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0.0) + loss.detach() * share
        tokens = torch.tensor(float(sum(batch.tokens for batch in batches))).to(self.device)
        gradients = [weight.grad for weight in self.trained.values() if weight.grad is not None]
        processes.add_up([*gradients, *means.values(), tokens])
        means["gradient"] = torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        # the one place where the CPU waits for the GPU
        *values, all_tokens = torch.stack([*means.values(), tokens]).tolist()
        named = dict(zip(means, values, strict=True))
        if bad := [name for name, value in named.items() if not math.isfinite(value)]:
            raise self._not_finite(step, batches, bad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return named, round(all_tokens)

    def _not_finite(
        self, step: int, batches: list[AlignmentBatch], bad: list[str]
    ) -> NotFiniteError:
        users = torch.cat([batch.user_B for batch in batches]).unique().tolist()
        return NotFiniteError(
            f"align, step {step}: not finite: {', '.join(bad)}",
            [self.samples.prepared.user_ids[user] for user in users],
            checkpoint=self.folder / LAST,
            counted="step",
            lower="align.learning_rate",
        )

    def _text_weights(self) -> dict[str, Tensor]:
        return {
            name: value
            for name, value in self.trained.items()
            if name.startswith(("llm.", "text_mlp."))
        }

    def _save(self, step: int) -> None:
        if not processes.is_first():
            return
        state = {f"model.{name}": value for name, value in self.trained.items()}
        for name, weight in self.trained.items():
            for key, value in self.optimizer.state[weight].items():
                state[f"optimizer.{key}.{name}"] = value
        state |= {f"memory.{name}": value for name, value in self.memory.state().items()}
        write_checkpoint(self.folder / LAST, state, {"step": step})

    def _resume(self) -> int:
        """Load the last saved state, if any; returns the steps done."""
        if not (self.folder / LAST).exists():
            return 0
        state, notes = read_checkpoint(self.folder / LAST)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "memory": {}}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        with torch.no_grad():
            for name, weight in self.trained.items():
                weight.copy_(parts["model"][name])
        for key_name, value in parts["optimizer"].items():
            key, _, name = key_name.partition(".")
            self.optimizer.state[self.trained[name]][key] = value.to(self.device)
        self.memory.load(parts["memory"])
        return int(notes["step"])


def learning_rate(step: int, steps: int, config: AlignConfig) -> float:
    """Rise over the first steps, then fall to 0 behind the last; steps count from 1."""
    warmup = math.ceil(steps * config.warmup_share)
    if step <= warmup:
        return config.learning_rate * step / warmup
    return config.learning_rate * (steps + 1 - step) / (steps + 1 - warmup)
