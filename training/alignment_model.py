"""Everything that stage 1 trains: LoRA, text vectors, the sequence encoder, a contrast adapter.

Shape suffixes: B samples, I and J slots of the video and comment side, K comments of a comment
event, U texts of a batch (row 0: no text), F places of all rows that are read, H width of the
language model, E text width, D model width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.alignment_batches import AlignmentBatch
from training.config import RunConfig
from training.encoder import INITIAL_STD, SequenceEncoder, States, now, unit
from training.preference_llm import PreferenceLLM

ENCODER_PARTS = ("items.adapter.", "items.merge.", "sequence.")
"""What stage 2 begins with; the names that `training.encoder.Recommender` gives them."""


class Preferences(NamedTuple):
    """Unit vectors of each sample in fp32, and the language model's own loss.

    Attributes:
        llm_BD: What the language model prefers.
        own_BD: What the encoder prefers, read from the sample's own side.
        other_BD: The same head's reading of the other side.
        target_BD: What was chosen.
        response_loss: Scalar.
    """

    llm_BD: Tensor
    own_BD: Tensor
    other_BD: Tensor
    target_BD: Tensor
    response_loss: Tensor


class TextItems(nn.Module):
    """The part of `training.encoder.ItemVectors` that stage 1 trains."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.adapter = nn.Linear(text_width, width, bias=False)
        self.merge = nn.Linear(2 * width, width)

    def event(self, title_BID: Tensor, comment_BID: Tensor) -> Tensor:
        """An event from its title's and comments' adapted vectors."""
        merged: Tensor = self.merge(torch.cat([title_BID, comment_BID], -1))
        return merged


class AlignmentModel(nn.Module):
    """The language model and the sequence encoder, which learn from one another."""

    def __init__(self, llm: PreferenceLLM, config: RunConfig) -> None:
        super().__init__()
        self.llm = llm
        self.text_mlp = new_text_mlp(llm.width, config)
        self.contrast = nn.Linear(llm.width, config.model.width)
        self.items = TextItems(config.text.width, config.model.width)
        self.sequence = SequenceEncoder(config.model)
        for part in (self.text_mlp, self.contrast, self.items, self.sequence):
            _reset(part)

    def forward(self, batch: AlignmentBatch) -> Preferences:
        """Read prompts and texts together, then histories, each once."""
        state_FH = self.llm.read(batch.rows)
        last_BH = state_FH.index_select(0, batch.prompt_end_B)
        summed_loss = self.llm.response_loss(
            state_FH.index_select(0, batch.before_response_Q), batch.response_token_Q
        )
        text_UD = self.items.adapter(self.text_vectors(batch, state_FH))
        own_BD, other_BD = self.read_histories(batch, text_UD)
        return Preferences(
            llm_BD=unit(self.contrast(last_BH)),
            own_BD=unit(own_BD),
            other_BD=unit(other_BD),
            target_BD=unit(text_UD[batch.target_B]),
            response_loss=summed_loss / batch.response_tokens,
        )

    def text_vectors(self, batch: AlignmentBatch, state_FH: Tensor) -> Tensor:
        """Vectors of the batch's texts, made of the mean states of their tokens; (U, E).

        They stand behind a zero vector, for no text.
        """
        token_FH = state_FH.index_select(0, batch.text_place_F).float()
        zero_UH = token_FH.new_zeros(len(batch.text_length_U), self.llm.width)
        mean_UH = zero_UH.index_add(0, batch.text_F, token_FH) / batch.text_length_U[:, None]
        return F.pad(self.text_mlp(mean_UH), (0, 0, 1, 0))

    def read_histories(self, batch: AlignmentBatch, text_UD: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder prefers, from a sample's own side and from the other; both (B, D).

        A video sample is read by the video head and a comment sample by the comment head. Both
        heads read all samples, as that costs little and gives every weight a gradient.
        """
        states = self.states(batch, text_UD)
        swapped = States(
            states.comment_BJD, states.video_BID, states.comment_last_BJ, states.video_order_BI
        )
        cut_B1 = now(len(batch), 1, text_UD.device)
        query_B1D = text_UD[batch.screen_B].unsqueeze(1)
        is_comment_B1 = batch.is_comment_B[:, None]
        preferences = []
        for side in (states, swapped):
            video_B1D, _ = self.sequence.video_preferences(side, cut_B1)
            comment_B1D, _ = self.sequence.comment_preferences(side, query_B1D, cut_B1)
            chosen_BD = torch.where(is_comment_B1, comment_B1D.squeeze(1), video_B1D.squeeze(1))
            preferences.append(chosen_BD)
        return preferences[0], preferences[1]

    def states(self, batch: AlignmentBatch, text_UD: Tensor) -> States:
        """Encode histories from adapted texts, at the batch's positions."""
        comment_BJKD = text_UD[batch.comment_BJK]
        count_BJ1 = (batch.comment_BJK > 0).sum(-1, keepdim=True).clamp(min=1)
        states: States = self.sequence(
            self.items.event(text_UD[batch.title_BI], text_UD[batch.popular_BI]),
            self.items.event(text_UD[batch.comment_title_BJ], comment_BJKD.sum(-2) / count_BJ1),
            batch.video_order_BI,
            batch.video_cut_BI,
            batch.comment_last_BJ,
            batch.comment_cut_BJ,
            video_position_BI=batch.video_position_BI,
            comment_position_BJ=batch.comment_position_BJ,
        )
        return states

    def trained_weights(self) -> dict[str, nn.Parameter]:
        """All that is trained, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def encoder_weights(self) -> dict[str, Tensor]:
        """What stage 2 begins with."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith(ENCODER_PARTS)
        }


def new_text_mlp(width: int, config: RunConfig) -> nn.Sequential:
    """The map from the language model's states to text vectors (docs/model.md)."""
    hidden = config.align.text_hidden
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, config.text.width))


def _reset(module: nn.Module) -> None:
    """The encoder's own initial weights: N(0, 0.02²), biases 0."""
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2 or name.endswith("start_D"):
            nn.init.normal_(parameter, std=INITIAL_STD)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
