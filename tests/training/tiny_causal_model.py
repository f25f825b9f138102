"""A random language model of two small layers that writes, with one token per word."""

import re
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.preference_llm import CausalModel, load_causal_model
from training.prompts import ENGLISH

END = "</s>"


def tiny_tokenizer(*, end: str | None = END) -> PreTrainedTokenizerFast:
    words = re.findall(r"\w+|[^\w\s]+", " ".join(asdict(ENGLISH).values()))
    words += ["title", "text", *map(str, range(30))]
    words += [f"v{number}" for number in range(20)] + [f"c{number}" for number in range(100)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["?", END, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", eos_token=end)


def save_tiny_causal_model(folder: Path, *, seed: int = 0, end: str | None = END) -> Path:
    tokenizer = tiny_tokenizer(end=end)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_causal_model(folder: Path, **options) -> CausalModel:
    path = save_tiny_causal_model(folder, **options)
    return load_causal_model(str(path), torch.device("cpu"))
