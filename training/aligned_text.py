"""Text vectors of the aligned language model, kept like any other model's, in the run's folder.

Shape suffixes: N texts, H width of the language model, E text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lsvcr.errors import DataError
from training.alignment_model import new_text_mlp
from training.checkpoint import ALIGNED_LANGUAGE_MODEL, read_checkpoint
from training.config import RunConfig
from training.language_model import LanguageModel
from training.preference_llm import PreferenceLLM, load_causal_model


@dataclass(frozen=True)
class AlignedLanguageModel(LanguageModel):
    """A language model with LoRA weights, whose vectors are mapped to E numbers.

    Attributes:
        text_mlp: H to E, in fp32.
    """

    text_mlp: nn.Module

    @torch.inference_mode()
    def encode(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int,
        batch_tokens: int,
        on_batch: Callable[[Sequence[int]], None] = lambda rows: None,
    ) -> NDArray[np.float32]:
        """`vector_NE` of texts, as `LanguageModel.encode`; zero where a text has no tokens."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            vector_NH = super().encode(
                texts, max_tokens=max_tokens, batch_tokens=batch_tokens, on_batch=on_batch
            )
        vector_NE: NDArray[np.float32] = self.text_mlp(torch.from_numpy(vector_NH)).numpy()
        vector_NE[~vector_NH.any(1)] = 0
        return vector_NE


def load_aligned_language_model(
    run: Path, config: RunConfig, device: torch.device
) -> AlignedLanguageModel:
    """Load what `align` wrote on top of the language model it began with.

    Raises:
        DataError: If the weights are missing or belong to another model.
    """
    path = run / ALIGNED_LANGUAGE_MODEL
    weights, _ = read_checkpoint(path)
    causal = load_causal_model(config.text.language_model, device)
    llm = PreferenceLLM(causal.transformer, config.align)
    text_mlp = new_text_mlp(llm.width, config)
    modules = nn.ModuleDict({"llm": llm, "text_mlp": text_mlp})
    missing, unknown = modules.load_state_dict(weights, strict=False)
    trained = {name for name, value in modules.named_parameters() if value.requires_grad}
    if unknown or trained & set(missing):
        raise DataError(f"{path} does not fit {config.text.language_model!r} and these settings")
    return AlignedLanguageModel(
        str(path), causal.tokenizer, llm.causal.base_model.eval(), text_mlp.eval()
    )
