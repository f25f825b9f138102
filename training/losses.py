"""The losses of stage 2 (docs/model.md), over every target of a batch at once.

Shape suffixes: Q targets of a batch, flat; N negatives; others as in `training.encoder`.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lsvcr.catalogue import Catalogue
from lsvcr.history import NEVER
from training.batches import TrainingRows
from training.config import FitConfig
from training.encoder import HistoryTensors, Recommender, unit
from training.score_parts import ScoreParts
from training.split import Prepared


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
    """Everything the loss needs beside the model and the batch."""

    def __init__(
        self,
        prepared: Prepared,
        config: FitConfig,
        parts: ScoreParts,
        device: torch.device,
    ) -> None:
        self.config, self.parts = config, parts
        self.slices = CommentSlices.of(prepared.catalogue, device)
        core_V = torch.from_numpy(prepared.is_core_V).to(device)
        self.core_N = core_V.nonzero().squeeze(1)
        self.core_position_V = core_V.cumsum(0) - 1

    def __call__(
        self, model: Recommender, batch: TrainingRows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Mean losses by name: `video`, `comment`, `id_text` where they apply."""
        history = _drop_comments(batch.history, self.config.drop_comment_history, generator)
        popular_BI = self.slices.draw(history.video_BI, model.config.popular_comments, generator)
        is_video_BT, is_comment_BT = batch.video_target_RT > 0, batch.comment_target_RT > 0
        # bf16 carries the layers; cosines over tau and cross-entropy need fp32.
        with torch.autocast(popular_BI.device.type, torch.bfloat16, enabled=popular_BI.is_cuda):
            states = model.encode(history, popular_BI)
            video_BTD, _ = model.sequence.video_preferences(states, batch.video_cut_RT)
            query_BTD = model.items.video_queries(batch.comment_target_RT)
            comment_BTD, _ = model.sequence.comment_preferences(
                states, query_BTD, batch.comment_cut_RT
            )
        losses = {}
        if is_video_BT.any():
            losses["video"] = self.video_loss(
                model,
                video_BTD[is_video_BT],
                batch.video_target_RT[is_video_BT],
                batch.video_event_RT[is_video_BT],
            )
        if is_comment_BT.any():
            losses["comment"] = self.comment_loss(
                model,
                comment_BTD[is_comment_BT],
                batch.comment_target_RT[is_comment_BT],
                batch.own_comment_RTP[is_comment_BT],
                batch.comment_event_RT[is_comment_BT],
                generator,
            )
        if self.config.id_text_weight and model.config.use_ids and model.config.use_text:
            losses["id_text"] = self.id_text_loss(model, history, popular_BI, generator)
        return losses

    def video_loss(
        self, model: Recommender, preference_QD: Tensor, target_Q: Tensor, event_Q: Tensor
    ) -> Tensor:
        """Cross-entropy of cosine / tau, plus the prior, over all core videos."""
        candidate_ND = model.video_candidates(self.core_N)
        logit_QN = unit(preference_QD) @ candidate_ND.T / model.config.temperature
        prior_QN = self.parts.prior(event_Q)
        if prior_QN is not None:
            logit_QN = logit_QN + prior_QN[:, self.core_N]
        return F.cross_entropy(logit_QN, self.core_position_V[target_Q])

    def comment_loss(
        self,
        model: Recommender,
        preference_QD: Tensor,
        video_Q: Tensor,
        own_QP: Tensor,
        event_Q: Tensor,
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
        return F.cross_entropy(logit_QN, label_Q)

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
            position_N = (video.flatten() > 0).nonzero().squeeze(1)
            if len(position_N) < 2:
                continue
            draw_N = torch.rand(len(position_N), generator=generator, device=video.device)
            position_N = position_N[draw_N.argsort()[: self.config.id_text_pool]]
            video_N, other_N = video.flatten()[position_N], other.flatten(0, 1)[position_N]
            id_ND, text_ND = unit(items.id(video_N)), unit(text_of(video_N, other_N))
            logit_NN = id_ND @ text_ND.T / model.config.temperature
            is_twin_NN = video_N[:, None] == video_N[None, :]
            is_twin_NN.fill_diagonal_(False)
            logit_NN = logit_NN.masked_fill(is_twin_NN, -1e4)
            label_N = torch.arange(len(video_N), device=video.device)
            loss = (
                loss
                + (F.cross_entropy(logit_NN, label_N) + F.cross_entropy(logit_NN.T, label_N)) / 2
            )
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
