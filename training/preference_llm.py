"""A causal language model that learns, by LoRA, to say what a user will like next.

Shape suffixes: R rows, T places of a row, F places of all rows, H width of the language model, Q
tokens to predict, X vocabulary.
"""

import os
import shutil
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from lsvcr.errors import DataError
from training.config import AlignConfig
from training.language_model import local_source
from training.token_rows import TokenRows

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""As in the paper, where the model has linear maps of these names; else all of them."""

SMALL_WEIGHTS = 1_000_000_000
"""Up to so many, the activations of a batch fit beside them on a GPU of 80 GB."""


@dataclass(frozen=True)
class CausalModel:
    """A pretrained model with its output head, and its tokenizer, as transformers make them."""

    name: str
    tokenizer: Any
    transformer: Any

    @property
    def context_tokens(self) -> int:
        """The most tokens it reads at once."""
        return int(getattr(self.transformer.config, "max_position_embeddings", 2**30))


def load_causal_model(name: str, device: torch.device) -> CausalModel:
    """Load a model with its output head: fp32 on a CPU, bf16 on a GPU.

    Args:
        name: As of `language_model.load_language_model`.
        device: Where it will run.

    Raises:
        DataError: If it isn't there, cannot be loaded, or has no output head.
    """
    source = local_source(name)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.truncation_side = "right"
        transformer, info = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"the language model {name!r} cannot be trained: {reason}") from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise DataError(
            f"the language model {name!r} lacks weights that `align` needs ({missing}): "
            "choose a model that can write text, or align.epochs=0"
        )
    return CausalModel(name, tokenizer, transformer.to(device))


class PreferenceLLM(nn.Module):
    """The language model with LoRA weights: all else of it is frozen."""

    def __init__(self, transformer: Any, config: AlignConfig) -> None:
        super().__init__()
        self.causal = add_lora(transformer, config)
        if _must_recompute(transformer, config):
            recompute_activations(self.causal)
        elif config.compile and _can_compile(transformer.device):
            compile_layers(self.causal)
        self.causal.config.use_cache = False

    @property
    def width(self) -> int:
        """H."""
        return int(self.causal.config.hidden_size)

    def read(self, rows: list[TokenRows]) -> Tensor:
        """Hidden states after the final norm at all places of all rows; (F, H)."""
        return torch.cat([read_rows(self.causal, one).flatten(0, 1) for one in rows])

    def response_loss(self, state_QH: Tensor, token_Q: Tensor) -> Tensor:
        """Summed loss of the responses' tokens, from the states before them."""
        logit_QX = self.causal.get_output_embeddings()(state_QH)
        return F.cross_entropy(logit_QX.float(), token_Q, reduction="sum")


def read_rows(causal: Any, rows: TokenRows) -> Tensor:
    """Hidden states after the final norm; (R, T, H).

    Padding stands on the right, where a causal model's tokens never see it: so no mask is given.
    Where positions begin anew, the model makes one that keeps a row's sequences apart.
    """
    places = {} if rows.position_RT is None else {"position_ids": rows.position_RT}
    output = causal.base_model(input_ids=rows.token_RT, use_cache=False, **places)
    states: Tensor = output.last_hidden_state
    return states


@torch.inference_mode()
def keeps_sequences_apart(causal: Any) -> bool:
    """Whether a model reads a sequence alike alone and behind another one in the same row.

    Most do. Those that carry a state from token to token (state spaces, linear attention) may
    not: they see what stood before. Tried out, as no setting of a model says so.
    """
    first, second = 24, 8
    random = torch.Generator().manual_seed(0)
    token_RT = torch.randint(causal.config.vocab_size, (2, first + second), generator=random)
    token_RT = token_RT.to(causal.device)
    time_T = torch.arange(first + second, device=causal.device).expand(2, -1)
    apart_RT = torch.where(time_T < first, time_T, time_T - first)
    try:
        together, apart = (
            read_rows(causal, TokenRows(token_RT, position_RT))[:, first:]
            for position_RT in (time_T, apart_RT)
        )
    except TypeError:  # it takes no positions
        return False
    alone = read_rows(causal, TokenRows(token_RT[:, first:], None))
    # in bf16 two ways of reading the same differ a little; seeing more differs by far more
    return bool((apart - alone).norm() < (together - alone).norm() / 4)


def _must_recompute(transformer: Any, config: AlignConfig) -> bool:
    if config.recompute_activations is not None:
        return config.recompute_activations
    return transformer.device.type == "cpu" or transformer.num_parameters() > SMALL_WEIGHTS


def _can_compile(device: torch.device) -> bool:
    """Triton, which compiles for GPUs, calls a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return device.type == "cuda" and compiler is not None


def compile_layers(transformer: Any) -> None:
    """Fuse each layer's small operations; all layers and all lengths share the compiled code."""
    for module in transformer.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def recompute_activations(transformer: Any) -> None:
    """Keep only each layer's input for the backward pass."""
    # renamed within transformers 5
    newer = getattr(transformer, "activation_checkpointing_enable", None)
    (newer or transformer.gradient_checkpointing_enable)({"use_reentrant": False})


def add_lora(transformer: Any, config: AlignConfig) -> Any:
    """Freeze a causal model and put LoRA weights, in fp32, beside its linear maps.

    Raises:
        DataError: If it has no linear maps.
    """
    head = transformer.get_output_embeddings()
    linear = {
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    named = {name for name in linear if name.rpartition(".")[2] in LORA_TARGETS}
    if not linear:
        raise DataError("the language model has no linear maps that LoRA could change")
    transformer.requires_grad_(False)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=sorted(named or linear),
        bias="none",
    )
    inject_adapter_in_model(lora, transformer)
    for module in transformer.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # autocast does, and to bf16
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return transformer
