"""A causal language model that learns, by LoRA, to say what a user will like next.

Shape suffixes: B prompts or texts, T tokens, H width of the language model, Q tokens to predict,
X vocabulary.
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
from training.alignment_texts import TokenBatch
from training.config import AlignConfig
from training.language_model import local_source

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

    def read(self, batch: TokenBatch) -> Tensor:
        """Hidden states after the final norm; (B, T, H).

        Padding stands on the right, where a causal model's tokens never see it: so no mask is
        needed, and attention may take its fastest path.
        """
        states: Tensor = self.causal.base_model(
            input_ids=batch.token_BT, use_cache=False
        ).last_hidden_state
        return states

    def read_texts(self, batch: TokenBatch) -> Tensor:
        """Mean state of each text's tokens, in fp32; (B, H)."""
        state_BTH = self.read(batch)
        time_T = torch.arange(state_BTH.shape[1], device=state_BTH.device)
        is_token_BT1 = (time_T < batch.length_B[:, None])[..., None]
        sum_BH = torch.where(is_token_BT1, state_BTH.float(), 0.0).sum(1)
        return sum_BH / batch.length_B[:, None]

    def read_prompts(
        self, batch: TokenBatch, prompt_length_B: Tensor, before_response_Q: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read prompts with their responses, once; logits are computed for responses only.

        Returns:
            The state of each prompt's last token (B, H), from which the response's first token
            is predicted, and the summed loss of all responses' tokens.
        """
        state_BTH = self.read(batch)
        row_B = torch.arange(len(state_BTH), device=state_BTH.device)
        last_BH = state_BTH[row_B, prompt_length_B - 1]
        state_QH = state_BTH.flatten(0, 1).index_select(0, before_response_Q)
        logit_QX = self.causal.get_output_embeddings()(state_QH)
        token_Q = batch.token_BT.flatten()[before_response_Q + 1]
        return last_BH, F.cross_entropy(logit_QX.float(), token_Q, reduction="sum")


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
