"""One step's input in stage 1, as tensors.

Shape suffixes: B samples, I and J slots of the video and comment side (slot 0: start state), K
comments of a comment event, U distinct texts of a batch, T tokens, Q tokens to predict, S pieces.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.alignment_texts import AlignmentTexts, TokenBatch, token_batch
from training.prompts import Prompts


@dataclass(frozen=True)
class AlignmentBatch:
    """Histories refer to texts by their position in `texts`, from 1; 0 = none.

    Attributes:
        prompts: Prompts, each followed by its response.
        prompt_length_B: int64 tokens before the response.
        before_response_Q: int64 positions in all of `prompts`, row after row, whose next token
            belongs to a response.
        texts: The batch's distinct texts in parts of similar length.
        tokens: What the language model reads, padding not counted.
        response_tokens: What the summed loss of the responses is to be divided by, so that the
            mean over all parts of a batch is the mean over its tokens.
        title_BI, popular_BI, comment_title_BJ, comment_BJK: Texts of the histories.
        screen_B: Title of the video on screen, for comment samples.
        target_B: Text that is to be found.
        target_number_B: int64, equal where the texts to be found are equal, in any batch.
        video_order_BI, video_cut_BI, comment_last_BJ, comment_cut_BJ: As in `lsvcr.history`.
        video_position_BI, comment_position_BJ: int64 positions of the slots but the first.
        is_comment_B: Whether a comment is to be found.
        user_B: int64 user numbers.
    """

    prompts: TokenBatch
    prompt_length_B: Tensor
    before_response_Q: Tensor
    texts: list[TokenBatch]
    tokens: int
    response_tokens: float
    title_BI: Tensor
    popular_BI: Tensor
    comment_title_BJ: Tensor
    comment_BJK: Tensor
    screen_B: Tensor
    target_B: Tensor
    target_number_B: Tensor
    video_order_BI: Tensor
    video_cut_BI: Tensor
    comment_last_BJ: Tensor
    comment_cut_BJ: Tensor
    video_position_BI: Tensor
    comment_position_BJ: Tensor
    is_comment_B: Tensor
    user_B: Tensor

    def __len__(self) -> int:
        return len(self.user_B)

    def to(self, device: torch.device) -> "AlignmentBatch":
        """Copy to a device."""
        return AlignmentBatch(
            **{field.name: _moved(getattr(self, field.name), device) for field in fields(self)}
        )


def build_batch(
    texts: AlignmentTexts,
    prompts: Prompts,
    text_fields: dict[str, NDArray[np.int64]],
    other_fields: dict[str, NDArray[Any]],
    *,
    response_tokens: float,
) -> AlignmentBatch:
    """Turn arrays into a batch in which every distinct text stands once.

    Args:
        texts: All texts as tokens.
        prompts: Of the batch's samples.
        text_fields: Fields that refer to texts, by their numbers.
        other_fields: Fields that are taken as they are.
        response_tokens: As in `AlignmentBatch`.
    """
    used_F = np.concatenate([array.ravel() for array in text_fields.values()])
    number_U, place_F = np.unique(np.append(used_F, 0), return_inverse=True)
    parts, position_U = texts.parts(number_U[1:])  # the first is 0: no text
    position_U = np.append(0, position_U)
    ends = np.cumsum([array.size for array in text_fields.values()])
    positions = np.split(position_U[place_F], ends)
    renumbered = {
        name: position_F.reshape(array.shape)
        for (name, array), position_F in zip(text_fields.items(), positions, strict=False)
    }
    prompt_batch = token_batch(texts.table, prompts.piece_BS, prompts.length_BS)
    return AlignmentBatch(
        prompts=prompt_batch,
        prompt_length_B=torch.from_numpy(prompts.prompt_length_B),
        before_response_Q=_before_response(prompt_batch, prompts.prompt_length_B),
        texts=parts,
        tokens=sum(int(part.length_B.sum()) for part in (prompt_batch, *parts)),
        response_tokens=response_tokens,
        **{
            name: torch.from_numpy(np.ascontiguousarray(array))
            for name, array in (renumbered | other_fields).items()
        },
    )


def _before_response(prompts: TokenBatch, prompt_length_B: NDArray[np.int64]) -> Tensor:
    """Found here, on the CPU: to look for them on a GPU would make the CPU wait for it."""
    time_T = np.arange(prompts.token_BT.shape[1])
    is_before_BT = (time_T >= prompt_length_B[:, None] - 1) & (
        time_T < prompts.length_B.numpy()[:, None] - 1
    )
    return torch.from_numpy(np.flatnonzero(is_before_BT))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    if isinstance(value, TokenBatch):
        return TokenBatch(_moved(value.token_BT, device), _moved(value.length_B, device))
    if not isinstance(value, Tensor) or device.type == "cpu":
        return value
    return value.pin_memory().to(device, non_blocking=True)
