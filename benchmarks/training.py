"""How many targets a second stage 2 learns from: every prefix at once against one at a time.

The text vectors are random: speed does not depend on what they say. Each way is measured in turn,
round after round, so that a busy moment of the machine meets them all. By `torchrun`, all processes
train on one batch together; `benchmarks.scaling` compares their numbers.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results_file import commit, processor
from training import processes
from training.averaged_weights import AveragedWeights
from training.batches import TargetSlots, build_rows
from training.checkpoint import new_recommender
from training.comment_features import comment_features
from training.config import PRESETS, RunConfig
from training.dataset_folder import load_dataset
from training.fit import build_optimizer, pick_device
from training.losses import Objective
from training.score_parts import ScoreParts
from training.split import Prepared, TextTables, prepare
from training.train_step import TrainStep


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        settings: As for `--set`.
        as_graph: Whether the step is recorded as one CUDA graph.
        is_compiled: Whether the encoder goes through torch.compile first.
    """

    settings: tuple[str, ...] = ()
    as_graph: bool = True
    is_compiled: bool = False


PLAIN = ("model.prior_half_lives_days=[]", "model.profile_events=0")
SINGLE = ("fit.targets=single", "fit.batch_rows=512")
REFERENCE = "one target a row, step by step"
WAYS = {
    REFERENCE: Way(SINGLE, as_graph=False),
    "one target a row": Way(SINGLE),
    "every prefix, step by step": Way(as_graph=False),
    "every prefix": Way(),
    "every prefix, compiled": Way(is_compiled=True),
    "every prefix, 256 rows": Way(("fit.batch_rows=256",)),
    "every prefix, 8,192 drawn videos": Way(("fit.video_negatives=8192",)),
    "every prefix, no prior, no profile": Way(PLAIN),
}


STEPS = 20
"""Between two looks at the clock."""


class Measured:
    """One way, ready to train for some steps at a time."""

    def __init__(self, way: Way, prepared: Prepared, text: TextTables, config: RunConfig) -> None:
        config = config.override(list(way.settings))
        device = pick_device(config.fit.device)
        torch.manual_seed(0)
        recommender = new_recommender(config, text).to(device)
        if way.is_compiled:
            recommender.sequence.compile()
        rows = build_rows(
            prepared,
            max_history=config.model.max_history,
            targets=config.fit.targets,
            task=config.fit.task,
            device=device,
        )
        self.batches_SB = rows.batches(config.fit.batch_rows, config.fit.seed)
        objective = Objective(
            prepared,
            config.fit,
            ScoreParts.build(prepared, text, recommender, prepared.video_targets("train"), device),
            device,
            TargetSlots.of(rows, [self.batches_SB]),
        )
        self.step = TrainStep(
            recommender.train(),
            build_optimizer(recommender, config.fit),
            objective,
            rows,
            config.fit.batch_rows,
            averaged=AveragedWeights(recommender, config.fit.average_decay),
            as_graph=way.as_graph and device.type == "cuda",
        )
        self.count_R = (rows.video_target_RT > 0).sum(1) + (rows.comment_target_RT > 0).sum(1)
        self.next = 0
        self.targets_per_s: list[float] = []

    def train(self, seconds: float) -> None:
        """Train for about so long, and note the speed."""
        targets, started_s = torch.zeros((), device=self.count_R.device), time.perf_counter()
        # the first process's clock counts for all: each step waits for the others'
        while processes.gather([time.perf_counter() - started_s < seconds])[0]:
            for _ in range(STEPS):
                row_B = self.batches_SB[self.next % len(self.batches_SB)]
                self.next += 1
                self.step(row_B)
                targets += self.count_R[row_B].sum()
            float(targets)  # waits for the device
        self.targets_per_s.append(float(targets) / (time.perf_counter() - started_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each way in each round")
    parser.add_argument("--way", action="append", choices=WAYS, help="only this one (repeatable)")
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()

    with processes.joined():
        result = measure(args)
        if processes.is_first():
            show(result)
            if args.out:
                args.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train each way in turn, round after round."""
    config = PRESETS[args.preset].override(args.assignments)
    prepared = prepare(load_dataset(args.data), config)
    text = random_text(prepared, config.text.width)
    measured: dict[str, Measured] = {}
    for name in args.way or WAYS:
        started_s = time.perf_counter()
        measured[name] = Measured(WAYS[name], prepared, text, config)
        measured[name].train(0.01)  # the first steps allocate
        measured[name].targets_per_s.clear()
        if processes.is_first():
            print(f"{name}: ready in {time.perf_counter() - started_s:.1f} s", flush=True)
    for _ in range(args.rounds):
        for one in measured.values():
            one.train(args.seconds)

    reference = measured.get(REFERENCE)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "processes": processes.count(),
        "torch": torch.__version__,
        "commit": commit(),
        "preset": args.preset,
        "settings": args.assignments,
        "ways": {name: summary(one, reference) for name, one in measured.items()},
    }


def show(result: dict[str, Any]) -> None:
    for name, row in result["ways"].items():
        ratio = f"{row['of_reference']:6.1f} x" if "of_reference" in row else ""
        print(f"{name:36} {row['targets_per_s']:>10,} targets/s  {ratio}")


def random_text(prepared: Prepared, width: int) -> TextTables:
    """Text vectors that say nothing; row 0 is empty, as always."""
    random = np.random.default_rng(0)
    title_VE, comment_CE = (
        random.standard_normal((count, width), np.float32)
        for count in (prepared.catalogue.video_count, prepared.catalogue.comment_count)
    )
    title_VE[0] = comment_CE[0] = 0
    return TextTables(
        title_VE,
        comment_CE,
        comment_features(prepared, [comment_CE, comment_CE]),
        prepared.catalogue.category_V,
    )


def summary(one: Measured, reference: Measured | None) -> dict[str, float]:
    """Median and spread of the rounds, and how often the reference fits in."""
    median = statistics.median(one.targets_per_s)
    row = {
        "targets_per_s": round(median),
        "slowest": round(min(one.targets_per_s)),
        "fastest": round(max(one.targets_per_s)),
    }
    if reference:
        row["of_reference"] = round(median / statistics.median(reference.targets_per_s), 2)
    return row


if __name__ == "__main__":
    main()
