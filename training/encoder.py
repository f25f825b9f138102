"""The sequence encoder: two histories in, a video preference and comment preferences out.

Shape suffixes: B batch rows, I and J slots of the video and comment side (slot 0 is the learned
start state), T targets of a row, K comments of a comment event, V video rows, C comment rows,
D model width, E text width, H heads, N anything flat.

`ItemVectors` turns items into vectors; all that text contributes there is linear, so export
replaces it by tables. `SequenceEncoder` works on those vectors and is what is served.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lsvcr.history import NEVER
from training.config import ModelConfig
from training.popularity_prior import PriorModel

INITIAL_STD = 0.02


@dataclass(frozen=True)
class HistoryTensors:
    """`lsvcr.history.HistoryBatch` as int32 tensors on the model's device."""

    video_BI: Tensor
    video_order_BI: Tensor
    video_cut_BI: Tensor
    comment_video_BJ: Tensor
    comment_BJK: Tensor
    comment_last_BJ: Tensor
    comment_cut_BJ: Tensor


@dataclass(frozen=True)
class States:
    """What the encoder knows of each row: one state per slot, and who may read it."""

    video_BID: Tensor
    comment_BJD: Tensor
    video_order_BI: Tensor
    comment_last_BJ: Tensor


class ItemVectors(nn.Module):
    """Ids and texts of videos and comments as D-wide vectors (docs/model.md, Inputs)."""

    title_VE: Tensor
    comment_CE: Tensor

    category_V: Tensor

    def __init__(
        self, config: ModelConfig, title_VE: Tensor, comment_CE: Tensor, category_V: Tensor
    ) -> None:
        super().__init__()
        self.use_ids, self.use_text = config.use_ids, config.use_text
        self.register_buffer("category_V", category_V, persistent=False)
        self.register_buffer("title_VE", title_VE, persistent=False)
        self.register_buffer("comment_CE", comment_CE, persistent=False)
        self.adapter = nn.Linear(title_VE.shape[1], config.width, bias=False)
        self.merge = nn.Linear(2 * config.width, config.width)
        self.id = nn.Embedding(len(title_VE), config.width, padding_idx=0)
        self.gate = nn.Parameter(torch.ones(()))
        self.category: nn.Embedding | None = None
        if config.use_categories and category_V.any():
            categories = int(category_V.max()) + 1
            self.category = nn.Embedding(categories, config.width, padding_idx=0)

    def video_ids(self, video_N: Tensor) -> Tensor:
        """The gated id part of a video and its category's; zeros without both. (…) to (…, D)."""
        id_ND = self.id(video_N) * float(self.use_ids)
        if self.category is not None:
            id_ND = id_ND + self.category(self.category_V[video_N])
        return self.gate * id_ND

    def titles(self, video_N: Tensor) -> Tensor:
        """Adapted title vectors; (…) to (…, D)."""
        return self._adapt(F.embedding(video_N, self.title_VE))

    def comments(self, comment_N: Tensor) -> Tensor:
        """Adapted comment vectors; (…) to (…, D)."""
        return self._adapt(F.embedding(comment_N, self.comment_CE))

    def video_event_text(self, video_BI: Tensor, popular_BI: Tensor) -> Tensor:
        """Text of a video event: its title and one popular comment (row 0: none)."""
        return self.merge(torch.cat([self.titles(video_BI), self.comments(popular_BI)], -1))

    def comment_event_text(self, video_BJ: Tensor, comment_BJK: Tensor) -> Tensor:
        """Text of a comment event: the video's title and the mean of its comments."""
        comment_BJKE = F.embedding(comment_BJK, self.comment_CE)
        count_BJ = (comment_BJK > 0).sum(-1, keepdim=True).clamp(min=1)
        mean_BJD = self._adapt(comment_BJKE.sum(-2) / count_BJ)
        return self.merge(torch.cat([self.titles(video_BJ), mean_BJD], -1))

    def video_queries(self, video_N: Tensor) -> Tensor:
        """A video as the target of the comment head; normalised, as a candidate."""
        return self.video_ids(video_N) + self.titles(video_N)

    def _adapt(self, text_NE: Tensor) -> Tensor:
        return self.adapter(text_NE) * float(self.use_text)


class Attention(nn.Module):
    """Multi-head attention without residual or norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value, self.output = (
            nn.Linear(config.width, config.width) for _ in range(4)
        )

    def forward(self, query_BID: Tensor, other_BJD: Tensor, may_read_BIJ: Tensor) -> Tensor:
        """Read from `other_BJD` where allowed; every row may read at least one slot."""
        query, key, value = self.project(query_BID, other_BJD)
        context_BHIh = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=may_read_BIJ.unsqueeze(-3),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.join(context_BHIh)

    def project(self, query_BID: Tensor, other_BJD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, split into heads: (B, H, slots, D / H)."""
        return (
            self._split(self.query(query_BID)),
            self._split(self.key(other_BJD)),
            self._split(self.value(other_BJD)),
        )

    def join(self, context_BHIh: Tensor) -> Tensor:
        """Concatenate the heads and project."""
        return self.output(context_BHIh.transpose(1, 2).flatten(2))

    def _split(self, x_BID: Tensor) -> Tensor:
        return x_BID.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Attention and a feed-forward block, each with a residual; norms before or after."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.is_post_norm = config.norm == "post"
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.width)
        self.other_norm = nn.Identity() if self.is_post_norm else nn.LayerNorm(config.width)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, config.feedforward),
            nn.GELU(),
            nn.Linear(config.feedforward, config.width),
        )
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BID: Tensor, other_BJD: Tensor, may_read_BIJ: Tensor) -> Tensor:
        """(B, I, D) to (B, I, D), reading from `other_BJD`."""
        if self.is_post_norm:
            read_BID = self.attention(x_BID, other_BJD, may_read_BIJ)
            x_BID = self.attention_norm(x_BID + self.dropout(read_BID))
            return self.feedforward_norm(x_BID + self.dropout(self.feedforward(x_BID)))
        read_BID = self.attention(
            self.attention_norm(x_BID), self.other_norm(other_BJD), may_read_BIJ
        )
        x_BID = x_BID + self.dropout(read_BID)
        return x_BID + self.dropout(self.feedforward(self.feedforward_norm(x_BID)))


class Side(nn.Module):
    """One history's own part: positions, start state, causal layers, merge after mixing."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reads_input = config.encoder_kv == "input"
        self.position_LD = nn.Parameter(torch.empty(config.max_history, config.width))
        self.start_D = nn.Parameter(torch.empty(config.width))
        self.input_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.encoder_layers))
        self.mix: Layer | None = None
        if config.mix:
            self.mix = Layer(config)
            self.merge = nn.Linear(2 * config.width, config.width)

    def encode(self, event_BID: Tensor, position_BI: Tensor | None = None) -> Tensor:
        """Causal states; slot 0 of the input is ignored and becomes the start state.

        Positions of the other slots count from 0 unless given.
        """
        slots = event_BID.shape[1]
        if position_BI is None:
            position_BID = self.position_LD[: slots - 1]
        else:
            position_BID = self.position_LD[position_BI]
        event_BID = event_BID[:, 1:] + position_BID
        start_B1D = self.start_D.expand(event_BID.shape[0], 1, -1)
        input_BID = self.dropout(self.input_norm(torch.cat([start_B1D, event_BID], 1)))
        slot_I = torch.arange(slots, device=event_BID.device)
        may_read_1II = (slot_I[None, :] <= slot_I[:, None]).unsqueeze(0)
        state_BID = input_BID
        for layer in self.layers:
            read_BID = input_BID if self.reads_input else state_BID
            state_BID = layer(state_BID, read_BID, may_read_1II)
        return state_BID

    def read_other(self, state_BID: Tensor, other_BJD: Tensor, may_read_BIJ: Tensor) -> Tensor:
        """Mix in the other side's states as they were before mixing, where there is a mix layer."""
        if self.mix is None:
            return state_BID
        mixed_BID = self.mix(state_BID, other_BJD, may_read_BIJ)
        return self.merge(torch.cat([state_BID, mixed_BID], -1))


class SequenceEncoder(nn.Module):
    """Event vectors to states and preferences (docs/model.md, Encoder)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.video, self.comment = Side(config), Side(config)
        self.reads_last = config.pool == "last"
        if not self.reads_last:
            self.pool_hidden = nn.Linear(config.width, 2 * config.width)
            self.pool_norm = nn.LayerNorm(2 * config.width)
            self.pool_score = nn.Linear(2 * config.width, 1)
        self.read_out = Attention(config)
        self.read_out_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        video_event_BID: Tensor,
        comment_event_BJD: Tensor,
        video_order_BI: Tensor,
        video_cut_BI: Tensor,
        comment_last_BJ: Tensor,
        comment_cut_BJ: Tensor,
        *,
        video_position_BI: Tensor | None = None,
        comment_position_BJ: Tensor | None = None,
    ) -> States:
        """States of all slots of both sides, each mixed with what it may know of the other."""
        video_BID = self.video.encode(video_event_BID, video_position_BI)
        comment_BJD = self.comment.encode(comment_event_BJD, comment_position_BJ)
        video_reads_BIJ = comment_last_BJ[:, None, :] < video_cut_BI[:, :, None]
        comment_reads_BJI = video_order_BI[:, None, :] < comment_cut_BJ[:, :, None]
        return States(
            video_BID=self.video.read_other(video_BID, comment_BJD, video_reads_BIJ),
            comment_BJD=self.comment.read_other(comment_BJD, video_BID, comment_reads_BJI),
            video_order_BI=video_order_BI,
            comment_last_BJ=comment_last_BJ,
        )

    def video_preferences(self, states: States, cut_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Additive attention over the video states before each cut, or the last of them.

        Returns:
            preference_BTD (any scale) and share_BTI (sum 1 over I).
        """
        is_past_BTI = states.video_order_BI[:, None, :] < cut_BT[:, :, None]
        if self.reads_last:
            share_BTI = last_of(is_past_BTI)
        else:
            score_BI = self.pool_scores(states.video_BID)
            share_BTI = _masked_softmax(score_BI[:, None, :], is_past_BTI)
        return share_BTI.to(states.video_BID.dtype) @ states.video_BID, share_BTI

    def pool_scores(self, state_XD: Tensor) -> Tensor:
        """How much each state counts in the additive attention, before softmax; (…, D) to (…)."""
        hidden_XP = self.pool_norm(self.dropout(self.pool_hidden(state_XD)))
        score_X: Tensor = self.pool_score(F.gelu(hidden_XP)).squeeze(-1)
        return score_X

    def comment_preferences(
        self, states: States, query_BTD: Tensor, cut_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attention from target videos over the comment states before each cut.

        Returns:
            preference_BTD (any scale) and share_BTJ (mean over heads, sum 1 over J).
        """
        query, key, value = self.read_out.project(query_BTD, states.comment_BJD)
        score_BHTJ = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        is_past_BTJ = states.comment_last_BJ[:, None, :] < cut_BT[:, :, None]
        share_BHTJ = _masked_softmax(score_BHTJ, is_past_BTJ[:, None])
        context_BHTh = F.dropout(share_BHTJ, self.dropout.p, self.training).to(value.dtype) @ value
        read_BTD = self.dropout(self.read_out.join(context_BHTh))
        return self.read_out_norm(query_BTD + read_BTD), share_BHTJ.mean(1)


class ProfileSimilarity(nn.Module):
    """How much a comment is like those that the user took part in before.

    Source:
        docs/model.md: (s0 + s1 log(1 + n)) cos(P p, P x), p the mean features of the n
        earlier comments. P begins as the identity of the first features, s0 as 8.
    """

    feature_CF: Tensor

    def __init__(self, feature_CF: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("feature_CF", feature_CF, persistent=False)
        features = feature_CF.shape[1]
        self.project = nn.Linear(features, min(features, width), bias=False)
        self.scale = nn.Parameter(torch.empty(()))
        self.scale_by_count = nn.Parameter(torch.empty(()))

    def reset_parameters(self) -> None:
        """Begin as plain cosine, times 8."""
        nn.init.eye_(self.project.weight)
        nn.init.constant_(self.scale, 8.0)
        nn.init.zeros_(self.scale_by_count)

    def forward(self, profile_QF: Tensor, count_Q: Tensor, comment_QN: Tensor) -> Tensor:
        """Logits (Q, N) of candidate comments; 0 for a user without a profile."""
        profile_QF = unit(self.project(profile_QF))
        candidate_QNF = unit(self.project(F.embedding(comment_QN, self.feature_CF)))
        cosine_QN = (candidate_QNF @ profile_QF.unsqueeze(2)).squeeze(2)
        return (self.scale + self.scale_by_count * count_Q.log1p()).unsqueeze(1) * cosine_QN


class RepeatLogit(nn.Module):
    """What having watched a video before adds to its logit: mostly less, where nobody repeats.

    Learned as a cosine, so that it moves as fast as the encoder's part.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.cosine = nn.Parameter(torch.zeros(()))

    def forward(self, is_seen_QN: Tensor) -> Tensor:
        """(…) to (…): the same number wherever true, 0 elsewhere."""
        return is_seen_QN * (self.cosine / self.temperature)


class Recommender(nn.Module):
    """All that is trained and that a checkpoint holds.

    Attributes:
        prior: What recent popularity adds to a video's logit; fitted before the rest, and then
            left as it is. None without half-lives.
        repeat: What having watched a video adds to its logit. None without repeats.
    """

    def __init__(
        self,
        config: ModelConfig,
        title_VE: Tensor,
        comment_CE: Tensor,
        feature_CF: Tensor,
        category_V: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if category_V is None:
            category_V = torch.zeros(len(title_VE), dtype=torch.int32)
        self.items = ItemVectors(config, title_VE, comment_CE, category_V)
        self.sequence = SequenceEncoder(config)
        self.profile = (
            ProfileSimilarity(feature_CF, config.profile_width) if config.profile_events else None
        )
        half_lives = len(config.prior_half_lives_days)
        self.prior = PriorModel(half_lives).requires_grad_(False) if half_lives else None
        self.repeat = RepeatLogit(config.temperature) if config.repeats else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 0.02²) for weights, 0 for biases and the padding id, 1/0 for norms."""
        for name, parameter in self.named_parameters():
            if name.startswith("prior."):
                nn.init.zeros_(parameter)
            elif parameter.ndim >= 2 or name.endswith("start_D"):
                nn.init.normal_(parameter, std=INITIAL_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.items.id.weight[0] = 0
            if self.items.category is not None:
                self.items.category.weight[0] = 0
        if self.profile is not None:
            self.profile.reset_parameters()

    def encode(self, history: HistoryTensors, popular_BI: Tensor) -> States:
        """States of a batch; `popular_BI` is the comment shown with each video event."""
        items = self.items
        video_event_BID = items.video_ids(history.video_BI) + items.video_event_text(
            history.video_BI, popular_BI
        )
        comment_event_BJD = items.video_ids(history.comment_video_BJ) + items.comment_event_text(
            history.comment_video_BJ, history.comment_BJK
        )
        states: States = self.sequence(
            video_event_BID,
            comment_event_BJD,
            history.video_order_BI,
            history.video_cut_BI,
            history.comment_last_BJ,
            history.comment_cut_BJ,
        )
        return states

    def video_candidates(self, video_N: Tensor) -> Tensor:
        """Unit vectors that video preferences are compared with; (N, D) in fp32."""
        return unit(self.items.video_queries(video_N))

    def comment_candidates(self, comment_N: Tensor) -> Tensor:
        """Unit vectors that comment preferences are compared with; (…, D) in fp32."""
        return unit(self.items.comments(comment_N))


def unit(x_ND: Tensor) -> Tensor:
    """Normalise to length 1, in fp32; a zero vector stays zero."""
    return F.normalize(x_ND.float(), dim=-1, eps=1e-6)


def now(rows: int, targets: int, device: torch.device) -> Tensor:
    """Cuts that let a target read its whole history: (rows, targets)."""
    return torch.full((rows, targets), NEVER, dtype=torch.int32, device=device)


def last_of(is_past_XI: Tensor) -> Tensor:
    """1 at the last true slot of each row, 0 elsewhere; the true slots are the first ones."""
    slot_I = torch.arange(is_past_XI.shape[-1], device=is_past_XI.device)
    return (slot_I == is_past_XI.sum(-1, keepdim=True) - 1).float()


def _masked_softmax(score: Tensor, is_past: Tensor) -> Tensor:
    return score.float().masked_fill(~is_past, -1e4).softmax(-1)
