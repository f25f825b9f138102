"""The losses of stage 2 (docs/model.md), over every target of a batch at once.

Shape suffixes: Q targets of a batch, flat; N candidates; S sampled videos; O history positions of
a pool, A those of them that this process asks about; others as in `training.encoder`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from training import processes
from training.batches import TargetSlots, TrainingRows, select
from training.config import FitConfig
from training.draws import CommentSlices, Draws, Pool, filled
from training.encoder import Recommender, unit
from training.repeats import is_among_all, is_among_drawn, seen_by
from training.score_parts import ScoreParts
from training.split import Prepared

HIDDEN = -1e4
"""The logit of what is no candidate: finite, so that no gradient is NaN."""


class Objective:
    """Everything the loss needs beside the model and the batch.

    Every tensor's shape is the same in every batch, so that a GPU can replay one recorded step:
    targets are gathered into `slots`, of which those left over weigh nothing.
    """

    def __init__(
        self,
        prepared: Prepared,
        config: FitConfig,
        parts: ScoreParts,
        device: torch.device,
        slots: TargetSlots,
    ) -> None:
        self.config, self.parts, self.slots = config, parts, slots
        # Those with a training event: others may be new, and nothing is learned against them.
        self.known_V = torch.from_numpy(prepared.is_core_V & prepared.is_trained_V).to(device)
        self.known_N = self.known_V.nonzero().squeeze(1)
        self.known_position_V = (self.known_V.cumsum(0) - 1).clamp(min=0)
        self.draws = Draws(
            CommentSlices.of(prepared.catalogue, device),
            self.known_position_V,
            len(self.known_N),
            config,
        )
        table = parts.prior_table
        self.prior_row_N = None if table is None else table.row_N
        self.prior_AN = None if table is None else table.logit_AV[:, self.known_N]
        share_N = torch.from_numpy(prepared.training_events_V).to(device)[self.known_N]
        self.share_N = share_N / share_N.sum().clamp(min=1)

    def __call__(
        self, model: Recommender, batch: TrainingRows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """This process's part of the mean losses of a whole batch.

        Returns:
            `video`, `comment`, `id_text`, where they apply; the means are the sums over processes.
        """
        drawn = self.draws(batch, model.config.popular_comments, generator)
        own = processes.own_part(len(batch.user_R))
        mine, popular_BI = batch.select(own), drawn.popular_BI[own]
        # bf16 carries the layers; cosines over tau and cross-entropy need fp32.
        with torch.autocast(popular_BI.device.type, torch.bfloat16, enabled=popular_BI.is_cuda):
            states = model.encode(select(drawn.history, own), popular_BI)
            video_BTD, _ = model.sequence.video_preferences(states, mine.video_cut_RT)
            query_BTD = model.items.video_queries(mine.comment_target_RT)
            comment_BTD, _ = model.sequence.comment_preferences(
                states, query_BTD, mine.comment_cut_RT
            )
        losses = {}
        if self.slots.videos:
            slot_Q, weight_Q = filled(mine.video_target_RT > 0, self.slots.videos)
            loss_Q = self.video_losses(
                model,
                video_BTD.flatten(0, 1)[slot_Q],
                mine.video_target_RT.flatten()[slot_Q],
                mine.video_event_RT.flatten()[slot_Q],
                seen_by(mine, slot_Q),
                drawn.negative_S,
            )
            losses["video"] = _mean(loss_Q, weight_Q, (batch.video_target_RT > 0).sum())
        if self.slots.comments and drawn.candidate_BTN is not None:
            slot_Q, weight_Q = filled(mine.comment_target_RT > 0, self.slots.comments)
            loss_Q = self.comment_losses(
                model,
                comment_BTD.flatten(0, 1)[slot_Q],
                drawn.candidate_BTN[own].flatten(0, 1)[slot_Q],
                mine.comment_event_RT.flatten()[slot_Q],
            )
            losses["comment"] = _mean(loss_Q, weight_Q, (batch.comment_target_RT > 0).sum())
        if drawn.pools and model.config.use_ids and model.config.use_text:
            losses["id_text"] = self.id_text_loss(model, *drawn.pools)
        return losses

    def video_losses(
        self,
        model: Recommender,
        preference_QD: Tensor,
        target_Q: Tensor,
        event_Q: Tensor,
        seen_QI: Tensor,
        negative_S: Tensor | None,
    ) -> Tensor:
        """Cross-entropies of the whole score over all known videos or a sample.

        Args:
            model: Gives cosine / tau and the repeats' part; the prior's comes from its table.
            preference_QD: Of any length.
            target_Q: Catalogue rows.
            event_Q: The targets' positions in the timelines.
            seen_QI: Catalogue rows of what was watched before, 0 = none.
            negative_S: Positions among the known videos; None for all of them.
        """
        position_Q = self.known_position_V[target_Q]
        seen_position_QI = torch.where(
            self.known_V[seen_QI], self.known_position_V[seen_QI], len(self.known_N)
        )
        if negative_S is not None:
            logit_QN, position_Q = self.sampled_logits(
                model, preference_QD, position_Q, event_Q, seen_position_QI, negative_S
            )
        else:
            candidate_ND = model.video_candidates(self.known_N)
            logit_QN = unit(preference_QD) @ candidate_ND.T / model.config.temperature
            if self.prior_AN is not None and self.prior_row_N is not None:
                logit_QN = logit_QN + self.prior_AN[self.prior_row_N[event_Q.long()]]
            if model.repeat is not None:
                is_seen_QN = is_among_all(seen_position_QI, len(self.known_N))
                logit_QN = logit_QN + model.repeat(is_seen_QN)
        return F.cross_entropy(logit_QN, position_Q, reduction="none")

    def sampled_logits(
        self,
        model: Recommender,
        preference_QD: Tensor,
        position_Q: Tensor,
        event_Q: Tensor,
        seen_position_QI: Tensor,
        negative_S: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits of each target (column 0) and of the negatives that all targets share.

        Source:
            docs/model.md, Large catalogues: a negative's logit less log E[its count among the
            draws], a negative equal to the target left out: an importance-sampled estimate of
            the softmax over all videos (Bengio and Senécal 2003).

        Returns:
            logit_QN with N = 1 + S, and the label, always 0.
        """
        videos, in_batch = len(self.known_N), len(negative_S) // 2
        log_count_N = (in_batch * self.share_N + (len(negative_S) - in_batch) / videos).log()

        preference_QD = unit(preference_QD)
        target_QD = model.video_candidates(self.known_N[position_Q])
        target_Q1 = (preference_QD * target_QD).sum(1, keepdim=True) / model.config.temperature
        other_QS = (
            preference_QD @ model.video_candidates(self.known_N[negative_S]).T
        ) / model.config.temperature
        if self.prior_AN is not None and self.prior_row_N is not None:
            row_Q1 = self.prior_row_N[event_Q.long()][:, None]
            target_Q1 = target_Q1 + self.prior_AN[row_Q1, position_Q[:, None]]
            other_QS = other_QS + self.prior_AN[row_Q1, negative_S]
        if model.repeat is not None:
            is_again_Q1 = (seen_position_QI == position_Q[:, None]).any(1, keepdim=True)
            target_Q1 = target_Q1 + model.repeat(is_again_Q1)
            is_seen_QS = is_among_drawn(seen_position_QI, negative_S)
            other_QS = other_QS + model.repeat(is_seen_QS)
        other_QS = other_QS - log_count_N[negative_S]
        other_QS = other_QS.masked_fill(negative_S == position_Q[:, None], HIDDEN)
        return torch.cat([target_Q1, other_QS], 1), torch.zeros_like(position_Q)

    def comment_losses(
        self, model: Recommender, preference_QD: Tensor, candidate_QN: Tensor, event_Q: Tensor
    ) -> Tensor:
        """Cross-entropies of one own comment (column 0) against others under the same video."""
        cosine_QN = (
            model.comment_candidates(candidate_QN) @ unit(preference_QD).unsqueeze(2)
        ).squeeze(2)
        logit_QN = cosine_QN / model.config.temperature
        profile_QN = self.parts.profile(model, event_Q, candidate_QN)
        if profile_QN is not None:
            logit_QN = logit_QN + profile_QN
        label_Q = torch.zeros(len(logit_QN), dtype=torch.long, device=logit_QN.device)
        return F.cross_entropy(logit_QN, label_Q, reduction="none")

    def id_text_loss(self, model: Recommender, videos: Pool, comments: Pool) -> Tensor:
        """Tie raw ids to the text of the events they appear in: both sides' contrasts, summed.

        The pool's positions are one another's negatives; equal videos are none.
        """
        items = model.items
        loss = torch.zeros((), device=videos.video_O.device)
        for pool, text_of in (
            (videos, items.video_event_text),
            (comments, items.comment_event_text),
        ):
            own = processes.own_part(len(pool.video_O))
            id_OD = unit(items.id(pool.video_O))
            text_OD = unit(text_of(pool.video_O, pool.shown_O))
            is_hidden_OO = (pool.video_O[:, None] == pool.video_O) | ~pool.is_event_O
            is_hidden_AO = is_hidden_OO.fill_diagonal_(False)[own]
            label_A = torch.arange(len(id_OD), device=loss.device)[own]
            both_A = torch.zeros(len(label_A), device=loss.device)
            for query_OD, key_OD in ((id_OD, text_OD), (text_OD, id_OD)):
                logit_AO = query_OD[own] @ key_OD.T / model.config.temperature
                logit_AO = logit_AO.masked_fill(is_hidden_AO, HIDDEN)
                both_A = both_A + F.cross_entropy(logit_AO, label_A, reduction="none")
            loss = loss + _mean(both_A, pool.is_event_O[own], pool.is_event_O.sum()) / 2
        return loss

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """L = L_video + L_comment + w · R."""
        weights = {"video": 1.0, "comment": 1.0, "id_text": self.config.id_text_weight}
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _mean(loss_Q: Tensor, weight_Q: Tensor, total: Tensor) -> Tensor:
    """This process's part of the mean over `total` targets of all processes."""
    return (loss_Q * weight_Q).sum() / total.clamp(min=1)
