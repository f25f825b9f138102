"""One step's input in stage 1, as tensors.

Shape suffixes: B samples, I and J slots of the video and comment side (slot 0: start state), K
comments of a comment event, U distinct texts of a batch, F tokens of all texts, Q tokens to
predict.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.alignment_texts import AlignmentTexts
from training.prompts import Prompts
from training.token_rows import LayOut, TokenRows, on_device
from training.token_table import places_of


@dataclass(frozen=True)
class AlignmentBatch:
    """Histories refer to texts by their number in the batch, from 1; 0 = none.

    Attributes:
        rows: Prompts, each followed by its response, and the batch's distinct texts.
        prompt_end_B: int64 place of each prompt's last token in all rows joined.
        before_response_Q: int64 places whose next token belongs to a response.
        response_token_Q: int64, those tokens.
        text_place_F: int64 places of the texts' tokens, text after text.
        text_F: int64, which text each of them belongs to, from 0.
        text_length_U: int64 tokens of each text.
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

    rows: list[TokenRows]
    prompt_end_B: Tensor
    before_response_Q: Tensor
    response_token_Q: Tensor
    text_place_F: Tensor
    text_F: Tensor
    text_length_U: Tensor
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
    lay_out: LayOut,
) -> AlignmentBatch:
    """Turn arrays into a batch in which every distinct text stands once.

    Args:
        texts: All texts as tokens.
        prompts: Of the batch's samples.
        text_fields: Fields that refer to texts, by their numbers.
        other_fields: Fields that are taken as they are.
        response_tokens: As in `AlignmentBatch`.
        lay_out: Puts prompts and texts into rows.
    """
    used_F = np.concatenate([array.ravel() for array in text_fields.values()])
    number_U, place_F = np.unique(np.append(used_F, 0), return_inverse=True)
    ends = np.cumsum([array.size for array in text_fields.values()])
    renumbered = {
        name: number_F.reshape(array.shape)
        for (name, array), number_F in zip(
            text_fields.items(), np.split(place_F, ends), strict=False
        )
    }
    prompt_token_F, length_B = texts.table.join(prompts.piece_BS, prompts.length_BS)
    text_token_F, length_U = texts.table.join(*texts.alone(number_U[1:]))  # 0: no text
    length_N = np.concatenate([length_B, length_U])
    layout = lay_out(length_N)
    start_B, start_U = np.split(layout.start_N, [len(length_B)])
    response_start_B = start_B + prompts.prompt_length_B
    response_length_B = length_B - prompts.prompt_length_B
    response_F = places_of(np.cumsum(length_B) - response_length_B, response_length_B)
    # places are found here: to look for them on a GPU would make the CPU wait for it
    arrays = {
        "prompt_end_B": response_start_B - 1,
        "before_response_Q": places_of(response_start_B - 1, response_length_B),
        "response_token_Q": prompt_token_F[response_F].astype(np.int64),
        "text_place_F": places_of(start_U, length_U),
        "text_F": np.repeat(np.arange(len(length_U)), length_U),
        "text_length_U": length_U,
    }
    return AlignmentBatch(
        rows=layout.fill(np.concatenate([prompt_token_F, text_token_F]), length_N),
        tokens=int(length_N.sum()),
        response_tokens=response_tokens,
        **{
            name: torch.from_numpy(np.ascontiguousarray(array))
            for name, array in (arrays | renumbered | other_fields).items()
        },
    )


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [rows.to(device) for rows in value]
    return on_device(value, device) if isinstance(value, Tensor) else value
