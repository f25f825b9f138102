"""How fast stage 1 reads, and how much memory it takes, with a model of a given shape.

Weights may be random: speed and memory don't depend on what they are. By
`torchrun`, each process reads its part of every batch; a text that several need is read by each.
"""

import argparse
import contextlib
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.results_file import commit, processor
from training import processes
from training.align import align
from training.config import PRESETS
from training.dataset_folder import load_dataset
from training.preference_llm import CausalModel, load_causal_model
from training.split import Prepared, prepare

SHAPES = {
    "135M": LlamaConfig(  # SmolLM2-135M
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "6B": LlamaConfig(  # the widths of ChatGLM3-6B
        vocab_size=65_024,
        hidden_size=4096,
        intermediate_size=13_696,
        num_hidden_layers=28,
        num_attention_heads=32,
        num_key_value_heads=2,
        max_position_embeddings=8192,
    ),
}
END = "<end>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=4, help="steps that aren't counted")
    parser.add_argument("--random", choices=SHAPES, help="a model of random weights and this shape")
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()

    if not 1 <= args.warm_up < args.steps:
        parser.error("--warm-up must be at least 1 and below --steps")
    with processes.joined():
        result = measure(args)
        if processes.is_first():
            print(json.dumps(result, indent=2))
            if args.out:
                args.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train for some steps."""
    run = PRESETS[args.preset].override(["align.epochs=1000", *args.assignments])
    prepared = prepare(load_dataset(args.data), run)
    name = run.text.language_model
    ticks, tokens_read = [], []

    class EnoughError(Exception):
        pass

    def note(*, step: int, steps: int, losses: dict[str, float], tokens: int) -> None:
        ticks.append(time.perf_counter())
        tokens_read.append(tokens)
        if processes.is_first():
            print(f"step {step}: {losses}", flush=True)
        if step == args.steps:
            raise EnoughError

    def load(device: torch.device) -> CausalModel:
        if args.random:
            return random_model(SHAPES[args.random], prepared, device)
        return load_causal_model(name, device)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(EnoughError):
        align(prepared, run, Path(folder), load_model=load, progress=note)
    first = args.warm_up - 1
    seconds = ticks[-1] - ticks[first]
    counted = len(ticks) - 1 - first
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "model": f"random weights, {args.random}" if args.random else name,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "processes": processes.count(),
        "torch": torch.__version__,
        "commit": commit(),
        "samples_per_s": round(
            counted * run.align.batch_samples * run.align.accumulate / seconds, 1
        ),
        "tokens_per_s": round(sum(tokens_read[first + 1 :]) / seconds),
        "tokens_per_step": round(sum(tokens_read[first + 1 :]) / counted),
        "steps_per_s": round(counted / seconds, 3),
        "warm_up_s": round(ticks[first] - started, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1)
        if torch.cuda.is_available()
        else None,
        "align": run.align.model_dump(),
    }


def random_model(shape: LlamaConfig, prepared: Prepared, device: torch.device) -> CausalModel:
    """A model of the shape, with a tokenizer that learns from the data."""
    titles, comments = prepared.texts()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=30_000,
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(titles + comments, trainer)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    torch.set_default_dtype(dtype)
    with torch.device(device):
        transformer = LlamaForCausalLM(shape)
    torch.set_default_dtype(torch.float32)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    return CausalModel("random", fast, transformer)


if __name__ == "__main__":
    main()
