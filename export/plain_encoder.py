"""The encoder and its comment head in few and plain steps, as they run fastest.

Shape suffixes: B batch, I and J slots of two sides, S slots of either, P products side by side,
H heads, h width of a head, K comments of a comment event, V video rows, C comment rows, D model
width, E several of it.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsvcr.history import NEVER
from training.encoder import Layer, SequenceEncoder, Side, last_of, unit

UNREAD = -1e4
"""Added to what attention must not read; a start state may always be read. In half precision."""


class PlainLayer(nn.Module):
    """As `Layer`, with less to do: queries, keys and values of one input are one product.

    What a norm multiplies and adds, and the scale of the scores, are part of the weights behind it.

    Args:
        reads_itself: Whether it attends to its own input.
    """

    def __init__(self, layer: Layer, *, reads_itself: bool) -> None:
        super().__init__()
        attention = layer.attention
        self.after = layer.attention_norm if layer.is_post_norm else None
        before = None if layer.is_post_norm else layer.attention_norm
        other_before = None if layer.is_post_norm else layer.other_norm
        scale = (attention.query.out_features // attention.heads) ** -0.5
        query = _folded(attention.query, before, scale)
        key, value = (_folded(one, other_before) for one in (attention.key, attention.value))
        self.query = None if reads_itself else query
        self.read = _joined(query, key, value) if reads_itself else _joined(key, value)
        self.output = attention.output
        self.feedforward, self.feedforward_norm = layer.feedforward, layer.feedforward_norm
        self._heads = attention.heads

    def forward(self, x_BID: Tensor, other_BJD: Tensor, unread: Tensor) -> Tensor:
        """(B, I, D) to (B, I, D); `unread` is added to the scores."""
        if self.query is None:
            projected_BIE = self.read(self._normalised(x_BID))
            query_BHIh, key_BHJh, value_BHJh = self._heads_of(projected_BIE, 3)
        else:
            (query_BHIh,) = self._heads_of(self.query(self._normalised(x_BID)), 1)
            projected_BJE = self.read(self._normalised(other_BJD))
            key_BHJh, value_BHJh = self._heads_of(projected_BJE, 2)
        share_BHIJ = (query_BHIh @ key_BHJh.transpose(-1, -2) + unread).softmax(-1)
        x_BID = x_BID + self.output((share_BHIJ @ value_BHJh).transpose(1, 2).flatten(2))
        if self.after is not None:
            x_BID = self.after(x_BID)
            return self.feedforward_norm(x_BID + self.feedforward(x_BID))
        return x_BID + self.feedforward(self.feedforward_norm(x_BID))

    def _normalised(self, x_BSD: Tensor) -> Tensor:
        return F.layer_norm(x_BSD, x_BSD.shape[-1:]) if self.after is None else x_BSD

    def _heads_of(self, x_BSE: Tensor, parts: int) -> list[Tensor]:
        """(B, S, parts times D) to as many (B, H, S, h)."""
        split_BSPHh = x_BSE.unflatten(-1, (parts, self._heads, -1))
        return [part.squeeze(0) for part in split_BSPHh.permute(2, 0, 3, 1, 4).split(1)]


def _folded(linear: nn.Linear, norm: nn.Module | None, scale: float = 1.0) -> nn.Linear:
    """A product that does what a norm's weights and `linear` do, and scales."""
    weight_ED, bias_E = linear.weight, linear.bias
    if norm is not None:
        assert isinstance(norm, nn.LayerNorm)
        bias_E = bias_E + weight_ED @ norm.bias
        weight_ED = weight_ED * norm.weight
    return _product(weight_ED * scale, bias_E * scale)


def _joined(*linears: nn.Linear) -> nn.Linear:
    return _product(
        torch.cat([one.weight for one in linears]), torch.cat([one.bias for one in linears])
    )


def _product(weight_ED: Tensor, bias_E: Tensor) -> nn.Linear:
    linear = nn.Linear(weight_ED.shape[1], weight_ED.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight_ED.detach()), nn.Parameter(bias_E.detach())
    return linear


class PlainSide(nn.Module):
    """As `Side`."""

    def __init__(self, side: Side) -> None:
        super().__init__()
        self.side = side
        self.layers = nn.ModuleList(
            PlainLayer(layer, reads_itself=not side.reads_input) for layer in side.layers
        )
        self.mix = None if side.mix is None else PlainLayer(side.mix, reads_itself=False)

    def encode(self, event_BSD: Tensor) -> Tensor:
        """As `Side.encode`."""
        side = self.side
        slot_S = torch.arange(event_BSD.shape[1])
        position_SD = F.embedding((slot_S - 1).clamp(min=0), side.position_LD)
        is_start_S1 = (slot_S == 0)[..., None]
        input_BSD = side.input_norm(torch.where(is_start_S1, side.start_D, event_BSD + position_SD))
        may_read_SS = slot_S[None, :] <= slot_S[:, None]
        # In full precision, as runtimes fold constants of no other.
        unread_SS = _unread(may_read_SS, torch.float32).to(event_BSD.dtype)
        state_BSD = input_BSD
        for layer in self.layers:
            state_BSD = layer(state_BSD, input_BSD, unread_SS)
        return state_BSD

    def read_other(self, state_BID: Tensor, other_BJD: Tensor, may_read_BIJ: Tensor) -> Tensor:
        """As `Side.read_other`."""
        if self.mix is None:
            return state_BID
        unread_B1IJ = _unread(may_read_BIJ, state_BID.dtype).unsqueeze(1)
        mixed_BID = self.mix(state_BID, other_BJD, unread_B1IJ)
        merged_BID: Tensor = self.side.merge(torch.cat([state_BID, mixed_BID], -1))
        return merged_BID


class PlainEncoderGraph(nn.Module):
    """Takes and returns what `EncoderGraph` does.

    Args:
        sequence: The trained encoder.
        kind: Precision of all but the tables and the outputs, which are float32.
    """

    def __init__(
        self,
        sequence: SequenceEncoder,
        kind: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self._sequence = deepcopy(sequence)
        self.video = PlainSide(self._sequence.video)
        self.comment = PlainSide(self._sequence.comment)
        self._kind = kind
        self.to(kind)

    def forward(
        self,
        video: Tensor,
        video_order: Tensor,
        video_cut: Tensor,
        comment_video: Tensor,
        comment: Tensor,
        comment_last: Tensor,
        comment_cut: Tensor,
        video_input_VD: Tensor,
        comment_video_input_VD: Tensor,
        comment_input_CD: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs as in `lsvcr.history.HistoryBatch.arrays`, then tables.

        Returns:
            video_preference_BD (unit vectors), comment_state_BJD, video_share_BI.
        """
        kind = self._kind
        # One after another: a GPU takes six times as long to sum over an axis.
        text_BJD, count_BJ = _sum_up(comment.unbind(-1), comment_input_CD)
        comment_text_BJD = text_BJD / count_BJ.clamp(min=1)[..., None]
        comment_video_BJD = F.embedding(comment_video, comment_video_input_VD)
        video_event_BID = F.embedding(video, video_input_VD)
        video_BID = self.video.encode(video_event_BID.to(kind))
        comment_BJD = self.comment.encode((comment_video_BJD + comment_text_BJD).to(kind))
        video_reads_BIJ = comment_last[:, None, :] < video_cut[:, :, None]
        comment_reads_BJI = video_order[:, None, :] < comment_cut[:, :, None]
        mixed_BID = self.video.read_other(video_BID, comment_BJD, video_reads_BIJ)
        mixed_BJD = self.comment.read_other(comment_BJD, video_BID, comment_reads_BJI)
        preference_BD, share_BI = _pool(self._sequence, mixed_BID, video_order < NEVER)
        return unit(preference_BD), mixed_BJD.float(), share_BI.float()


class PlainCommentHead(nn.Module):
    """Comment states and any number of target videos to comment preferences.

    Keys and values are never made: each head's query is taken to where the states are, and what it
    reads of them is taken back. For few targets that is a seventh of the work, as a target has one
    query and a history fifty states.
    """

    def __init__(self, sequence: SequenceEncoder) -> None:
        super().__init__()
        attention = sequence.read_out
        key_HhD, value_HhD, query_HhD = (
            one.weight.unflatten(0, (attention.heads, -1))
            for one in (attention.key, attention.value, attention.query)
        )
        scale = query_HhD.shape[1] ** -0.5
        query_bias_Hh1 = attention.query.bias.unflatten(0, (attention.heads, -1))[..., None]
        output_HDh = attention.output.weight.unflatten(1, (attention.heads, -1)).transpose(0, 1)
        self.query = _product(
            (key_HhD.transpose(1, 2) @ query_HhD).flatten(0, 1) * scale,
            (key_HhD.transpose(1, 2) @ query_bias_Hh1).flatten() * scale,
        )
        # A key's bias adds the same to all of a query's scores, and shares don't change by that.
        self.output = _product(
            (output_HDh @ value_HhD).transpose(0, 1).flatten(1),
            attention.output.weight @ attention.value.bias + attention.output.bias,
        )
        self.norm, self._heads = sequence.read_out_norm, attention.heads

    def forward(
        self, comment_state: Tensor, comment_last: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read (B, J, D) states with (B, T, D) target videos, as `comment_preferences`.

        Returns:
            comment_preference_BTD (unit vectors), comment_share_BTJ.
        """
        query_BED = self.query(target).unflatten(-1, (self._heads, -1)).flatten(1, 2)
        unread_B1J = _unread(comment_last < NEVER, comment_state.dtype).unsqueeze(1)
        share_BEJ = (query_BED @ comment_state.transpose(1, 2) + unread_B1J).softmax(-1)
        read_BTE = (share_BEJ @ comment_state).unflatten(1, (-1, self._heads)).flatten(2)
        preference_BTD = self.norm(target + self.output(read_BTE))
        share_BTHJ = share_BEJ.unflatten(1, (-1, self._heads))
        return unit(preference_BTD), share_BTHJ.mean(2)


def _sum_up(row_BJ: Sequence[Tensor], table_CD: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of table rows, (B, J, D), and how many of them aren't padding, (B, J)."""
    text_BJD, count_BJ = F.embedding(row_BJ[0], table_CD), (row_BJ[0] > 0).to(table_CD.dtype)
    for other_BJ in row_BJ[1:]:
        text_BJD = text_BJD + F.embedding(other_BJ, table_CD)
        count_BJ = count_BJ + (other_BJ > 0).to(table_CD.dtype)
    return text_BJD, count_BJ


def _pool(
    sequence: SequenceEncoder, state_BID: Tensor, is_slot_BI: Tensor
) -> tuple[Tensor, Tensor]:
    """As `SequenceEncoder.video_preferences`, of all states: preference_BD and share_BI."""
    if sequence.reads_last:
        share_BI = last_of(is_slot_BI).to(state_BID.dtype)
    else:
        score_BI = sequence.pool_scores(state_BID)
        share_BI = (score_BI + _unread(is_slot_BI, state_BID.dtype)).softmax(-1)
    return (share_BI.unsqueeze(1) @ state_BID).squeeze(1), share_BI


def _unread(may_read: Tensor, kind: torch.dtype) -> Tensor:
    return torch.where(may_read, torch.tensor(0.0, dtype=kind), torch.tensor(UNREAD, dtype=kind))
