"""The encoder in few and plain steps, as a runtime runs it fastest.

Packed for a CPU: most slots of a padded batch are padding, and a CPU pays for every one of them.
So all weight products, norms and activations work on the list of real slots; only attention sees a
batch. A GPU wants shapes that are known beforehand, and keeps the padding.

Shape suffixes: B batch, I and J slots of two sides, S slots of either, T and U packed slots of two
sides, H heads, h width of a head, K comments of a comment event, V video rows, C comment rows,
D model width.
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


class Packing:
    """Which slots of one side are real, and how to come from the list to the batch and back."""

    def __init__(self, order_BS: Tensor, heads: int) -> None:
        self.is_slot_BS = order_BS < NEVER
        self._shape = order_BS.shape
        self._row_T, self.slot_T = torch.nonzero(self.is_slot_BS, as_tuple=True)
        batch, slots = self._shape
        self._place_T = self._row_T * slots + self.slot_T
        token_N = self.is_slot_BS.flatten().to(torch.int64).cumsum(0) - 1
        self._token_BS = token_N.reshape(batch, slots)
        # Slots before rows: so a runtime's products take heads apart by themselves.
        self._token_SB = self._token_BS.transpose(0, 1)
        self._heads = heads
        head_H = torch.arange(heads)
        self._head_place_N = (
            (self._row_T * heads * slots + self.slot_T)[:, None] + head_H * slots
        ).flatten()

    def pack(self, x_BS: Tensor) -> Tensor:
        """(B, S, …) to (T, …)."""
        return x_BS.flatten(0, 1).index_select(0, self._place_T)

    def pad(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (B, S, D); padding repeats the slot before it."""
        return x_TD.index_select(0, self._token_BS.flatten()).unflatten(0, self._shape)

    def pad_heads(self, x_TE: Tensor, parts: int) -> list[Tensor]:
        """(T, parts times D) to as many (B, H, S, h)."""
        batch, slots = self._shape
        part_ND = x_TE.reshape(-1, x_TE.shape[1] // parts)
        return [
            part_ND.index_select(0, (self._token_SB * parts + part).flatten())
            .reshape(slots, batch, self._heads, -1)
            .permute(1, 2, 0, 3)
            for part in range(parts)
        ]

    def pack_heads(self, x_BHSh: Tensor) -> Tensor:
        """(B, H, S, h) to (T, D)."""
        width = x_BHSh.shape[-1]
        return (
            x_BHSh.reshape(-1, width)
            .index_select(0, self._head_place_N)
            .reshape(-1, self._heads * width)
        )


class NoPacking:
    """The same, of a batch that is left as it is: T is B by S, two axes instead of one."""

    def __init__(self, order_BS: Tensor, heads: int) -> None:
        self.is_slot_BS = order_BS < NEVER
        self.slot_T = torch.arange(order_BS.shape[1])
        self._heads = heads

    def pack(self, x_BS: Tensor) -> Tensor:
        """As it is."""
        return x_BS

    def pad(self, x_TD: Tensor) -> Tensor:
        """As it is."""
        return x_TD

    def pad_heads(self, x_TE: Tensor, parts: int) -> list[Tensor]:
        """(B, S, parts times D) to as many (B, H, S, h)."""
        split_BSPHh = x_TE.unflatten(-1, (parts, self._heads, -1))
        return [part.squeeze(0) for part in split_BSPHh.permute(2, 0, 3, 1, 4).split(1)]

    def pack_heads(self, x_BHSh: Tensor) -> Tensor:
        """(B, H, S, h) to (B, S, D)."""
        return x_BHSh.transpose(1, 2).flatten(2)


class PlainLayer(nn.Module):
    """As `Layer`, with less to do: queries, keys and values of one input are one product.

    What a norm multiplies and adds, and the scale of the scores, are part of the weights behind it.

    Args:
        reads_itself: Whether it attends to its own input.
    """

    def __init__(self, layer: Layer, *, reads_itself: bool) -> None:
        super().__init__()
        attention = layer.attention
        self._after = layer.attention_norm if layer.is_post_norm else None
        before = None if layer.is_post_norm else layer.attention_norm
        other_before = None if layer.is_post_norm else layer.other_norm
        scale = (attention.query.out_features // attention.heads) ** -0.5
        query = _folded(attention.query, before, scale)
        key, value = (_folded(one, other_before) for one in (attention.key, attention.value))
        self._query = None if reads_itself else query
        self._read = _joined(query, key, value) if reads_itself else _joined(key, value)
        self._output = attention.output
        self._feedforward, self._feedforward_norm = layer.feedforward, layer.feedforward_norm

    def forward(
        self,
        x_TD: Tensor,
        packing: Packing | NoPacking,
        other_UD: Tensor,
        other_packing: Packing | NoPacking,
        unread: Tensor,
    ) -> Tensor:
        """(T, D) to (T, D); `unread` is added to the scores."""
        if self._query is None:
            projected_TE = self._read(self._normalised(x_TD))
            query_BHIh, key_BHJh, value_BHJh = packing.pad_heads(projected_TE, 3)
        else:
            (query_BHIh,) = packing.pad_heads(self._query(self._normalised(x_TD)), 1)
            projected_UE = self._read(self._normalised(other_UD))
            key_BHJh, value_BHJh = other_packing.pad_heads(projected_UE, 2)
        share_BHIJ = (query_BHIh @ key_BHJh.transpose(-1, -2) + unread).softmax(-1)
        x_TD = x_TD + self._output(packing.pack_heads(share_BHIJ @ value_BHJh))
        if self._after is not None:
            x_TD = self._after(x_TD)
            return self._feedforward_norm(x_TD + self._feedforward(x_TD))
        return x_TD + self._feedforward(self._feedforward_norm(x_TD))

    def _normalised(self, x_TD: Tensor) -> Tensor:
        return F.layer_norm(x_TD, x_TD.shape[-1:]) if self._after is None else x_TD


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
        self._side = side
        self._layers = nn.ModuleList(
            PlainLayer(layer, reads_itself=not side.reads_input) for layer in side.layers
        )
        self._mix = None if side.mix is None else PlainLayer(side.mix, reads_itself=False)

    def encode(self, event_TD: Tensor, packing: Packing | NoPacking) -> Tensor:
        """As `Side.encode`."""
        side = self._side
        position_TD = F.embedding((packing.slot_T - 1).clamp(min=0), side.position_LD)
        is_start_T1 = (packing.slot_T == 0)[..., None]
        input_TD = side.input_norm(torch.where(is_start_T1, side.start_D, event_TD + position_TD))
        slot_S = torch.arange(packing.is_slot_BS.shape[1])
        may_read_SS = slot_S[None, :] <= slot_S[:, None]
        # In full precision, as runtimes fold constants of no other.
        unread_SS = _unread(may_read_SS, torch.float32).to(event_TD.dtype)
        state_TD = input_TD
        for layer in self._layers:
            state_TD = layer(state_TD, packing, input_TD, packing, unread_SS)
        return state_TD

    def read_other(
        self,
        state_TD: Tensor,
        packing: Packing | NoPacking,
        other_UD: Tensor,
        other_packing: Packing | NoPacking,
        may_read_BIJ: Tensor,
    ) -> Tensor:
        """As `Side.read_other`."""
        if self._mix is None:
            return state_TD
        unread_B1IJ = _unread(may_read_BIJ, state_TD.dtype).unsqueeze(1)
        mixed_TD = self._mix(state_TD, packing, other_UD, other_packing, unread_B1IJ)
        merged_TD: Tensor = self._side.merge(torch.cat([state_TD, mixed_TD], -1))
        return merged_TD


class PlainEncoderGraph(nn.Module):
    """Takes and returns what `EncoderGraph` does.

    Args:
        sequence: The trained encoder.
        packing: With `Packing`, states of padding are those before it.
        kind: Precision of all but the tables and the outputs, which are float32.
    """

    def __init__(
        self,
        sequence: SequenceEncoder,
        packing: type[Packing | NoPacking],
        kind: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self._sequence = deepcopy(sequence)
        self._video = PlainSide(self._sequence.video)
        self._comment = PlainSide(self._sequence.comment)
        self._packing = packing
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
        kind, heads = self._kind, self._sequence.read_out.heads
        videos, comments = self._packing(video_order, heads), self._packing(comment_last, heads)
        comment_UK = comments.pack(comment)
        # One after another: a GPU takes six times as long to sum over an axis.
        text_UD, count_U = _sum_up(comment_UK.unbind(-1), comment_input_CD)
        comment_text_UD = text_UD / count_U.clamp(min=1)[..., None]
        comment_video_UD = F.embedding(comments.pack(comment_video), comment_video_input_VD)
        video_event_TD = F.embedding(videos.pack(video), video_input_VD)
        video_TD = self._video.encode(video_event_TD.to(kind), videos)
        comment_event_UD = comment_video_UD + comment_text_UD
        comment_UD = self._comment.encode(comment_event_UD.to(kind), comments)
        video_reads_BIJ = comment_last[:, None, :] < video_cut[:, :, None]
        comment_reads_BJI = video_order[:, None, :] < comment_cut[:, :, None]
        mixed_TD = self._video.read_other(video_TD, videos, comment_UD, comments, video_reads_BIJ)
        mixed_UD = self._comment.read_other(
            comment_UD, comments, video_TD, videos, comment_reads_BJI
        )
        preference_BD, share_BI = _pool(self._sequence, mixed_TD, videos)
        return unit(preference_BD), comments.pad(mixed_UD).float(), share_BI.float()


def _sum_up(row_U: Sequence[Tensor], table_CD: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of table rows, (U, D), and how many of them aren't padding, (U,)."""
    text_UD, count_U = F.embedding(row_U[0], table_CD), (row_U[0] > 0).to(table_CD.dtype)
    for other_U in row_U[1:]:
        text_UD = text_UD + F.embedding(other_U, table_CD)
        count_U = count_U + (other_U > 0).to(table_CD.dtype)
    return text_UD, count_U


def _pool(
    sequence: SequenceEncoder, state_TD: Tensor, packing: Packing | NoPacking
) -> tuple[Tensor, Tensor]:
    """As `SequenceEncoder.video_preferences`, of all states: preference_BD and share_BI."""
    if sequence.reads_last:
        share_BI = last_of(packing.is_slot_BS).to(state_TD.dtype)
    else:
        score_BI = packing.pad(sequence.pool_scores(state_TD)[..., None]).squeeze(-1)
        share_BI = (score_BI + _unread(packing.is_slot_BS, state_TD.dtype)).softmax(-1)
    return (share_BI.unsqueeze(1) @ packing.pad(state_TD)).squeeze(1), share_BI


def _unread(may_read: Tensor, kind: torch.dtype) -> Tensor:
    return torch.where(may_read, torch.tensor(0.0, dtype=kind), torch.tensor(UNREAD, dtype=kind))
