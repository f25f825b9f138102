"""The losses of stage 2 (docs/model.md), over every target of a batch at once.

Shape suffixes: Q targets of a batch, flat; N negatives; others as in `training.encoder`.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lsvcr.catalogue import Catalogue
from lsvcr.history import NEVER
from training.batches import TargetSlots, TrainingRows
from training.config import FitConfig
from training.encoder import HistoryTensors, Recommender, unit
from training.score_parts import ScoreParts
from training.split import Prepared

HIDDEN = -1e4
"""The logit of what is no candidate: finite, so that no gradient is NaN."""


@dataclass(frozen=True)
class CommentSlices:
    """Where each video's comments lie in the comment rows, most popular first.

    Attributes:
        first_V: int32, the first comment row.
        count_V: int32, how many there are.
        comments: Comment rows, padding included.
    """

    first_V: Tensor
    count_V: Tensor
    comments: int

    @classmethod
    def of(cls, catalogue: Catalogue, device: torch.device) -> "CommentSlices":
        """Copy a catalogue's comment offsets to a device."""
        start_V1 = torch.from_numpy(catalogue.comment_start_V1.copy()).to(device)
        first_V, count_V = start_V1[:-1], start_V1[1:] - start_V1[:-1]
        return cls(first_V.int(), count_V.int(), catalogue.comment_count)

    def draw(self, video: Tensor, most: int | None, generator: torch.Generator) -> Tensor:
        """One random comment row under each video, among its `most` first; 0 if it has none."""
        count = self.count_V[video]
        reach = count if most is None else count.clamp(max=most)
        draw = torch.rand(video.shape, generator=generator, device=video.device)
        row = self.first_V[video] + (draw * reach).int()
        return torch.where(count > 0, row, 0)

    def most_popular(self, video: Tensor) -> Tensor:
        """The first comment row under each video; 0 if it has none."""
        return torch.where(self.count_V[video] > 0, self.first_V[video], 0)


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
        self.slices = CommentSlices.of(prepared.catalogue, device)
        core_V = torch.from_numpy(prepared.is_core_V).to(device)
        self.core_N = core_V.nonzero().squeeze(1)
        self.core_position_V = (core_V.cumsum(0) - 1).clamp(min=0)
        table = parts.prior_table
        self.prior_row_N = None if table is None else table.row_N
        self.prior_AN = None if table is None else table.logit_AV[:, self.core_N]
        share_N = torch.from_numpy(prepared.training_events_V).to(device)[self.core_N]
        self.share_N = share_N / share_N.sum().clamp(min=1)

    def __call__(
        self, model: Recommender, batch: TrainingRows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Mean losses by name: `video`, `comment`, `id_text` where they apply."""
        history = _drop_comments(batch.history, self.config.drop_comment_history, generator)
        popular_BI = self.slices.draw(history.video_BI, model.config.popular_comments, generator)
        # bf16 carries the layers; cosines over tau and cross-entropy need fp32.
        with torch.autocast(popular_BI.device.type, torch.bfloat16, enabled=popular_BI.is_cuda):
            states = model.encode(history, popular_BI)
            video_BTD, _ = model.sequence.video_preferences(states, batch.video_cut_RT)
            query_BTD = model.items.video_queries(batch.comment_target_RT)
            comment_BTD, _ = model.sequence.comment_preferences(
                states, query_BTD, batch.comment_cut_RT
            )
        losses = {}
        if self.slots.videos:
            slot_Q, weight_Q = _filled(batch.video_target_RT > 0, self.slots.videos)
            losses["video"] = self.video_loss(
                model,
                video_BTD.flatten(0, 1)[slot_Q],
                batch.video_target_RT.flatten()[slot_Q],
                batch.video_event_RT.flatten()[slot_Q],
                weight_Q,
                generator,
            )
        if self.slots.comments:
            slot_Q, weight_Q = _filled(batch.comment_target_RT > 0, self.slots.comments)
            losses["comment"] = self.comment_loss(
                model,
                comment_BTD.flatten(0, 1)[slot_Q],
                batch.comment_target_RT.flatten()[slot_Q],
                batch.own_comment_RTP.flatten(0, 1)[slot_Q],
                batch.comment_event_RT.flatten()[slot_Q],
                weight_Q,
                generator,
            )
        if self.config.id_text_weight and model.config.use_ids and model.config.use_text:
            losses["id_text"] = self.id_text_loss(model, history, popular_BI, generator)
        return losses

    def video_loss(
        self,
        model: Recommender,
        preference_QD: Tensor,
        target_Q: Tensor,
        event_Q: Tensor,
        weight_Q: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Cross-entropy of cosine / tau, plus the prior, over all core videos or a sample."""
        position_Q = self.core_position_V[target_Q]
        negatives = self.config.sampled_videos(len(self.core_N))
        if negatives:
            logit_QN, position_Q = self.sampled_logits(
                model, preference_QD, position_Q, event_Q, weight_Q, negatives, generator
            )
        else:
            candidate_ND = model.video_candidates(self.core_N)
            logit_QN = unit(preference_QD) @ candidate_ND.T / model.config.temperature
            if self.prior_AN is not None and self.prior_row_N is not None:
                logit_QN = logit_QN + self.prior_AN[self.prior_row_N[event_Q.long()]]
        return _weighted_mean(F.cross_entropy(logit_QN, position_Q, reduction="none"), weight_Q)

    def sampled_logits(
        self,
        model: Recommender,
        preference_QD: Tensor,
        position_Q: Tensor,
        event_Q: Tensor,
        weight_Q: Tensor,
        negatives: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Logits of each target (column 0) and of negatives that all targets share.

        Half of the negatives are other targets of the batch, half uniform over the core videos.

        Source:
            docs/model.md, Large catalogues: a negative's logit less log E[its count among the
            draws], a negative equal to the target left out: an importance-sampled estimate of
            the softmax over all videos (Bengio and Senécal 2003).

        Returns:
            logit_QN with N = 1 + negatives, and the label, always 0.
        """
        videos, device = len(self.core_N), position_Q.device
        in_batch = negatives // 2
        draw_S = torch.rand(in_batch, generator=generator, device=device)
        batch_S = position_Q[(draw_S * weight_Q.sum()).long()]
        uniform_S = torch.randint(
            videos, (negatives - in_batch,), generator=generator, device=device
        )
        negative_S = torch.cat([batch_S, uniform_S])
        log_count_N = (in_batch * self.share_N + (negatives - in_batch) / videos).log()

        preference_QD = unit(preference_QD)
        target_QD = model.video_candidates(self.core_N[position_Q])
        target_Q1 = (preference_QD * target_QD).sum(1, keepdim=True) / model.config.temperature
        other_QS = (
            preference_QD @ model.video_candidates(self.core_N[negative_S]).T
        ) / model.config.temperature
        if self.prior_AN is not None and self.prior_row_N is not None:
            row_Q1 = self.prior_row_N[event_Q.long()][:, None]
            target_Q1 = target_Q1 + self.prior_AN[row_Q1, position_Q[:, None]]
            other_QS = other_QS + self.prior_AN[row_Q1, negative_S]
        other_QS = other_QS - log_count_N[negative_S]
        other_QS = other_QS.masked_fill(negative_S == position_Q[:, None], HIDDEN)
        return torch.cat([target_Q1, other_QS], 1), torch.zeros_like(position_Q)

    def comment_loss(
        self,
        model: Recommender,
        preference_QD: Tensor,
        video_Q: Tensor,
        own_QP: Tensor,
        event_Q: Tensor,
        weight_Q: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Cross-entropy of one own comment against others under the same video."""
        own_count_Q = (own_QP > 0).sum(1)
        draw_Q = torch.rand(own_count_Q.shape, generator=generator, device=own_QP.device)
        positive_Q1 = own_QP.gather(1, (draw_Q * own_count_Q).long().unsqueeze(1))
        negative_QN = self.draw_negatives(video_Q, own_QP, generator)
        candidate_QN = torch.cat([positive_Q1, negative_QN], 1)
        cosine_QN = (
            model.comment_candidates(candidate_QN) @ unit(preference_QD).unsqueeze(2)
        ).squeeze(2)
        logit_QN = cosine_QN / model.config.temperature
        profile_QN = self.parts.profile(model, event_Q, candidate_QN)
        if profile_QN is not None:
            logit_QN = logit_QN + profile_QN
        label_Q = torch.zeros(len(logit_QN), dtype=torch.long, device=logit_QN.device)
        return _weighted_mean(F.cross_entropy(logit_QN, label_Q, reduction="none"), weight_Q)

    def draw_negatives(self, video_Q: Tensor, own_QP: Tensor, generator: torch.Generator) -> Tensor:
        """Random comments under the same video; of the whole corpus where the draw is an own one.

        Departure from the paper's code: with replacement, which needs no loop over users.
        """
        negatives = self.config.comment_negatives
        drawn_QN = self.slices.draw(video_Q[:, None].expand(-1, negatives), None, generator)
        is_own_QN = (drawn_QN[:, :, None] == own_QP[:, None, :]).any(2)
        anywhere_QN = torch.randint(
            1,
            self.slices.comments,
            drawn_QN.shape,
            generator=generator,
            device=drawn_QN.device,
            dtype=drawn_QN.dtype,
        )
        return torch.where(is_own_QN, anywhere_QN, drawn_QN)

    def id_text_loss(
        self,
        model: Recommender,
        history: HistoryTensors,
        popular_BI: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Tie raw ids to the text of the events they appear in: both sides' contrasts, summed.

        One pool of random history positions serves all as negatives; equal videos are none.
        """
        items = model.items
        loss = torch.zeros((), device=popular_BI.device)
        for video, other, text_of in (
            (history.video_BI, popular_BI, items.video_event_text),
            (history.comment_video_BJ, history.comment_BJK, items.comment_event_text),
        ):
            video_N, other_N = video.flatten(), other.flatten(0, 1)
            draw_N = torch.rand(len(video_N), generator=generator, device=video.device)
            draw_N = draw_N.masked_fill(video_N == 0, 2)
            pool = min(self.config.id_text_pool, len(video_N))
            draw_N, position_N = draw_N.topk(pool, largest=False)
            is_event_N = draw_N < 2
            video_N, other_N = video_N[position_N], other_N[position_N]
            id_ND, text_ND = unit(items.id(video_N)), unit(text_of(video_N, other_N))
            logit_NN = id_ND @ text_ND.T / model.config.temperature
            is_hidden_NN = (video_N[:, None] == video_N[None, :]) | ~is_event_N[None, :]
            is_hidden_NN.fill_diagonal_(False)
            logit_NN = logit_NN.masked_fill(is_hidden_NN, HIDDEN)
            # Transposed, a padding row must not be a candidate either.
            transposed_NN = logit_NN.T.masked_fill(is_hidden_NN, HIDDEN)
            label_N = torch.arange(pool, device=video.device)
            both_N = F.cross_entropy(logit_NN, label_N, reduction="none") + F.cross_entropy(
                transposed_NN, label_N, reduction="none"
            )
            loss = loss + _weighted_mean(both_N, is_event_N) / 2
        return loss

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """L = L_video + L_comment + w · R."""
        weights = {"video": 1.0, "comment": 1.0, "id_text": self.config.id_text_weight}
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _drop_comments(
    history: HistoryTensors, share: float, generator: torch.Generator
) -> HistoryTensors:
    """Hide the comment history of a random share of rows, as for users who never comment."""
    if not share:
        return history
    rows = len(history.comment_last_BJ)
    device = history.comment_last_BJ.device
    is_dropped_B1 = torch.rand((rows, 1), generator=generator, device=device) < share
    hidden_BJ = torch.full_like(history.comment_last_BJ, NEVER)
    hidden_BJ[:, 0] = history.comment_last_BJ[:, 0]
    last_BJ = torch.where(is_dropped_B1, hidden_BJ, history.comment_last_BJ)
    return replace(history, comment_last_BJ=last_BJ)


def _filled(is_target_BT: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Flat positions of the targets, filled up to `slots`, and a weight of 1 for the real ones."""
    is_target_N = is_target_BT.flatten()
    number_N = is_target_N.cumsum(0) - 1
    position_N = torch.arange(len(is_target_N), device=is_target_N.device)
    slot_N = torch.where(is_target_N & (number_N < slots), number_N, slots)
    slot_Q1 = torch.zeros(slots + 1, dtype=torch.long, device=is_target_N.device)
    slot_Q1.scatter_(0, slot_N, position_N)  # the last slot collects what is no target
    weight_Q = position_N.new_ones(slots).cumsum(0) <= number_N[-1] + 1
    return slot_Q1[:slots], weight_Q


def _weighted_mean(loss_Q: Tensor, weight_Q: Tensor) -> Tensor:
    return (loss_Q * weight_Q).sum() / weight_Q.sum().clamp(min=1)
