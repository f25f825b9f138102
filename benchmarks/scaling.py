"""How much faster several GPUs of a host train than one: both stages, in turn.

Strong scaling: the same batch, shared. Weak scaling: a batch n times as large, so that each GPU has
as much to do as one alone. Each measurement is a `torchrun` of its own. Stage 1 is compared by
samples a second: tokens count texts twice that two processes read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from training.config import PRESETS

MODULES = {"2": "benchmarks.training", "1": "benchmarks.alignment"}
BATCH = {"2": "fit.batch_rows", "1": "align.batch_samples"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="the first is 1")
    parser.add_argument("--stage", choices=MODULES, nargs="+", default=list(MODULES))
    parser.add_argument("--seconds", type=float, default=1.5, help="of each of 5 rounds of stage 2")
    parser.add_argument("--steps", type=int, default=24, help="of stage 1")
    parser.add_argument("--random", default="135M", help="shape of stage 1's language model")
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()

    result: dict[str, Any] = {"preset": args.preset, "settings": args.assignments}
    for stage in args.stage:
        result[f"stage {stage}"] = rows = []
        for count, batch in runs(stage, args):
            found = launch(stage, count, batch, args)
            rows.append(row(stage, batch, found, rows[0] if rows else None))
            print(f"stage {stage}: {rows[-1]}", flush=True)
            result |= {name: found[name] for name in ("date", "device", "torch", "commit")}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def runs(stage: str, args: argparse.Namespace) -> list[tuple[int, int]]:
    """Numbers of processes and batches; first one process, with the preset's batch."""
    section, _, key = BATCH[stage].partition(".")
    config = PRESETS[args.preset].override(args.assignments)
    one = int(getattr(getattr(config, section), key))
    shared = [(count, one) for count in args.processes]
    return shared + [(count, one * count) for count in args.processes if count > 1]


def launch(stage: str, count: int, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure in some processes."""
    settings = [*args.assignments, f"{BATCH[stage]}={batch}"]
    options = [word for setting in settings for word in ("--set", setting)]
    if stage == "2":
        options += ["--way", "every prefix", "--seconds", str(args.seconds)]
    else:
        options += [
            "--random",
            args.random,
            "--steps",
            str(args.steps),
            "--warm-up",
            str(args.steps // 2),
        ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc_per_node", str(count), "-m", MODULES[stage]),
                *("--data", str(args.data), "--preset", args.preset, "--out", str(out), *options),
            ],
            check=True,
            env={"OMP_NUM_THREADS": "1"} | os.environ,  # or processes on a CPU fight for cores
        )
        return dict(json.loads(out.read_text()))


def row(
    stage: str, batch: int, found: dict[str, Any], one: dict[str, Any] | None
) -> dict[str, Any]:
    """What is kept of a measurement, and how many times as fast it is as one process."""
    kept: dict[str, Any] = {"processes": found["processes"], BATCH[stage]: batch}
    if stage == "2":
        kept |= found["ways"]["every prefix"]
        speed = "targets_per_s"
    else:
        names = ("samples_per_s", "tokens_per_s", "tokens_per_step", "peak_gib")
        kept |= {name: found[name] for name in names}
        speed = "samples_per_s"
    if one:
        kept["times_one"] = round(kept[speed] / one[speed], 2)
    return kept


if __name__ == "__main__":
    main()
