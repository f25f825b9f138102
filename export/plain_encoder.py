"""The encoder in few and plain steps, as a runtime runs it fastest.

Packed for a CPU: most slots of a padded batch are padding, and a CPU pays for every one of them.
So all weight products, norms and activations work on the list of real slots; only attention sees a
batch. A GPU wants shapes that are known beforehand, and keeps the padding.

Shape suffixes: B batch, I and J slots of two sides, S slots of either, T and U packed slots of two
sides, H heads, h width of a head, K comments of a comment event, V video rows, C comment rows,
D model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsvcr.history import NEVER
from training.encoder import Attention, Layer, SequenceEncoder, Side, last_of, unit

UNREAD = -1e4
"""Added to what attention must not read; a start state may always be read. In half precision."""


class Packing:
    """Which slots of one side are real, and how to come from the list to the batch and back."""

    def __init__(self, order_BS: Tensor, heads: int) -> None:
        batch, slots = order_BS.shape
        self.is_slot_BS = order_BS < NEVER
        is_slot_N = self.is_slot_BS.flatten()
        place_T = torch.nonzero(is_slot_N).squeeze(1)
        self._place_T = place_T
        slot_S = torch.arange(slots)
        self.slot_T = self.pack(slot_S.expand(batch, -1))
        self._token_N = (is_slot_N.to(torch.int64).cumsum(0) - 1).clamp(min=0)
        self._shape = (batch, slots)
        # One gather pads and splits the heads, another one joins and packs: no transpose.
        head_H = torch.arange(heads)
        token_B1S = self._token_N.reshape(batch, 1, slots)
        self._head_token_N = (token_B1S * heads + head_H[:, None]).flatten()
        row_T = place_T.div(slots, rounding_mode="floor")
        self._head_place_N = (
            (row_T * heads)[:, None] * slots + head_H * slots + self.slot_T[:, None]
        ).flatten()
        self._heads = heads

    def pack(self, x_BS: Tensor) -> Tensor:
        """(B, S, …) to (T, …)."""
        return x_BS.flatten(0, 1).index_select(0, self._place_T)

    def pad(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (B, S, D); padding repeats the slot before it."""
        return x_TD.index_select(0, self._token_N).unflatten(0, self._shape)

    def pad_heads(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (B, H, S, h)."""
        width = x_TD.shape[1] // self._heads
        split_NW = x_TD.reshape(-1, width).index_select(0, self._head_token_N)
        batch, slots = self._shape
        return split_NW.reshape(batch, self._heads, slots, width)

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

    def pad_heads(self, x_TD: Tensor) -> Tensor:
        """(B, S, D) to (B, H, S, h)."""
        return x_TD.unflatten(-1, (self._heads, -1)).transpose(1, 2)

    def pack_heads(self, x_BHSh: Tensor) -> Tensor:
        """(B, H, S, h) to (B, S, D)."""
        return x_BHSh.transpose(1, 2).flatten(2)


class PlainEncoderGraph(nn.Module):
    """Takes and returns what `EncoderGraph` does.

    Args:
        sequence: In any precision; outputs are float32.
        packing: With `Packing`, states of padding are those before it.
    """

    def __init__(self, sequence: SequenceEncoder, packing: type[Packing | NoPacking]) -> None:
        super().__init__()
        self.sequence = sequence
        self._packing = packing

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
        sequence = self.sequence
        heads = sequence.read_out.heads
        kind = sequence.read_out_norm.weight.dtype
        videos, comments = self._packing(video_order, heads), self._packing(comment_last, heads)
        comment_UK = comments.pack(comment)
        count_U1 = (comment_UK > 0).sum(-1, keepdim=True).clamp(min=1)
        comment_text_UD = F.embedding(comment_UK, comment_input_CD).sum(-2) / count_U1
        comment_video_UD = F.embedding(comments.pack(comment_video), comment_video_input_VD)
        video_event_TD = F.embedding(videos.pack(video), video_input_VD)
        video_TD = _encode(sequence.video, video_event_TD.to(kind), videos)
        comment_event_UD = comment_video_UD + comment_text_UD
        comment_UD = _encode(sequence.comment, comment_event_UD.to(kind), comments)
        video_reads_BIJ = comment_last[:, None, :] < video_cut[:, :, None]
        comment_reads_BJI = video_order[:, None, :] < comment_cut[:, :, None]
        mixed_TD = _read_other(
            sequence.video, video_TD, videos, comment_UD, comments, video_reads_BIJ
        )
        mixed_UD = _read_other(
            sequence.comment, comment_UD, comments, video_TD, videos, comment_reads_BJI
        )
        preference_BD, share_BI = _pool(sequence, mixed_TD, videos)
        return unit(preference_BD), comments.pad(mixed_UD).float(), share_BI.float()


def _encode(side: Side, event_TD: Tensor, packing: Packing | NoPacking) -> Tensor:
    """As `Side.encode`."""
    position_TD = F.embedding((packing.slot_T - 1).clamp(min=0), side.position_LD)
    is_start_T1 = (packing.slot_T == 0)[..., None]
    input_TD = side.input_norm(torch.where(is_start_T1, side.start_D, event_TD + position_TD))
    slot_S = torch.arange(packing.is_slot_BS.shape[1])
    unread_SS = _unread(slot_S[None, :] <= slot_S[:, None], event_TD.dtype)
    state_TD = input_TD
    for layer in side.layers:
        read_TD = input_TD if side.reads_input else state_TD
        state_TD = _layer(layer, state_TD, packing, read_TD, packing, unread_SS)
    return state_TD


def _read_other(
    side: Side,
    state_TD: Tensor,
    packing: Packing | NoPacking,
    other_UD: Tensor,
    other_packing: Packing | NoPacking,
    may_read_BIJ: Tensor,
) -> Tensor:
    """As `Side.read_other`."""
    if side.mix is None:
        return state_TD
    unread_B1IJ = _unread(may_read_BIJ, state_TD.dtype).unsqueeze(1)
    mixed_TD = _layer(side.mix, state_TD, packing, other_UD, other_packing, unread_B1IJ)
    return side.merge(torch.cat([state_TD, mixed_TD], -1))


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


def _layer(
    layer: Layer,
    x_TD: Tensor,
    packing: Packing | NoPacking,
    other_UD: Tensor,
    other_packing: Packing | NoPacking,
    unread: Tensor,
) -> Tensor:
    """As `Layer`."""

    def attend(query_TD: Tensor, read_UD: Tensor) -> Tensor:
        return _attend(layer.attention, query_TD, packing, read_UD, other_packing, unread)

    if layer.is_post_norm:
        x_TD = layer.attention_norm(x_TD + attend(x_TD, other_UD))
        return layer.feedforward_norm(x_TD + layer.feedforward(x_TD))
    x_TD = x_TD + attend(layer.attention_norm(x_TD), layer.other_norm(other_UD))
    return x_TD + layer.feedforward(layer.feedforward_norm(x_TD))


def _attend(
    attention: Attention,
    query_TD: Tensor,
    packing: Packing | NoPacking,
    read_UD: Tensor,
    other_packing: Packing | NoPacking,
    unread: Tensor,
) -> Tensor:
    """As `Attention`."""
    query_BHIh = packing.pad_heads(attention.query(query_TD))
    key_BHJh = other_packing.pad_heads(attention.key(read_UD))
    value_BHJh = other_packing.pad_heads(attention.value(read_UD))
    score_BHIJ = query_BHIh @ key_BHJh.transpose(-1, -2) * query_BHIh.shape[-1] ** -0.5
    share_BHIJ = (score_BHIJ + unread).softmax(-1)
    return attention.output(packing.pack_heads(share_BHIJ @ value_BHJh))


def _unread(may_read: Tensor, kind: torch.dtype) -> Tensor:
    return torch.where(may_read, torch.tensor(0.0, dtype=kind), torch.tensor(UNREAD, dtype=kind))
