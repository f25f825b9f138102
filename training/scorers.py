"""Rankings to evaluate: the trained model, and what needs no training.

Shape suffixes: S samples, V video rows, N candidates, E text width, D model width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batches import Targets, to_tensors
from training.draws import CommentSlices
from training.encoder import HistoryTensors, Recommender, States, now, unit
from training.samples import Samples
from training.score_parts import ScoreParts
from training.split import Prepared, TextTables


@torch.no_grad()
def forget_untrained_ids(recommender: Recommender, is_trained_V: NDArray[np.bool_]) -> None:
    """Zero the ids that no training event ever moved, so that cold videos stand by their text."""
    recommender.items.id.weight[torch.from_numpy(~is_trained_V)] = 0


@dataclass(frozen=True)
class EncoderFactors:
    """What the encoder's part of a score is multiplied with."""

    video: float = 1.0
    comment: float = 1.0


class PartsAlone:
    """Scores without the encoder: popularity prior and repeats, and similarity to the profile."""

    def __init__(self, recommender: Recommender, parts: ScoreParts, samples: Samples) -> None:
        self.recommender, self.parts, self.samples = recommender.eval(), parts, samples
        self.device = recommender.items.gate.device

    @torch.no_grad()
    def videos(self, part: slice) -> NDArray[np.float32]:
        """Logits of all videos by the prior and by repeats, (S, V); zeros without both."""
        event_S = torch.from_numpy(self.samples.videos.event_T[part]).to(self.device)
        shape = (len(event_S), self.samples.prepared.catalogue.video_count)
        logit_SV = torch.zeros(shape, device=self.device)
        prior_SV = self.parts.prior(event_S)
        if prior_SV is not None:
            logit_SV += prior_SV
        if self.recommender.repeat is not None:
            is_seen_SV = torch.from_numpy(self.samples.seen(part)).to(self.device)
            logit_SV += self.recommender.repeat(is_seen_SV)
        return _numpy(logit_SV)

    @torch.no_grad()
    def comments(self, part: slice) -> NDArray[np.float32]:
        """The profile's logits of the comment candidates, (S, N); zeros without profiles."""
        event_S = torch.from_numpy(self.samples.comments.event_T[part]).to(self.device)
        candidate_SN = torch.from_numpy(self.samples.candidate_SN[part]).to(self.device)
        profile_SN = self.parts.profile(self.recommender, event_S, candidate_SN)
        if profile_SN is None:
            return np.zeros(candidate_SN.shape, np.float32)
        return _numpy(profile_SN)


class ModelScorer:
    """Scores by the trained model: the encoder's part plus prior and profile.

    Attributes:
        factors: A checkpoint's are folded into its other parts (`training.encoder_factor`): while
            it is trained, they stand here.
    """

    factors = EncoderFactors()

    def __init__(self, recommender: Recommender, parts: ScoreParts, samples: Samples) -> None:
        self.recommender = recommender.eval()
        self.parts_alone = PartsAlone(recommender, parts, samples)
        self.device = recommender.items.gate.device
        prepared, length = samples.prepared, recommender.config.max_history
        self.slices = CommentSlices.of(prepared.catalogue, self.device)
        self.video_history = to_tensors(samples.videos.history(prepared, length), self.device)
        self.comment_history = to_tensors(samples.comments.history(prepared, length), self.device)
        self.samples = samples
        videos = torch.arange(prepared.catalogue.video_count, device=self.device)
        with torch.no_grad():
            self.candidate_VD = recommender.video_candidates(videos)

    def videos(self, part: slice) -> NDArray[np.float32]:
        """Scores of all videos, (S, V)."""
        encoder_SV = self.factors.video * self.encoder_videos(part)
        return _numpy(encoder_SV) + self.parts_alone.videos(part)

    def comments(self, part: slice) -> NDArray[np.float32]:
        """Scores of the comment candidates, (S, N)."""
        encoder_SN = self.factors.comment * self.encoder_comments(part)
        return _numpy(encoder_SN) + self.parts_alone.comments(part)

    @torch.no_grad()
    def encoder_videos(self, part: slice) -> Tensor:
        """The encoder's part of all videos' scores, without factor; (S, V)."""
        states = self._encode(self.video_history, part)
        cut_S1 = now(len(states.video_order_BI), 1, self.device)
        preference_S1D, _ = self.recommender.sequence.video_preferences(states, cut_S1)
        cosine_SV = unit(preference_S1D[:, 0]) @ self.candidate_VD.T
        return cosine_SV / self.recommender.config.temperature

    @torch.no_grad()
    def encoder_comments(self, part: slice) -> Tensor:
        """The encoder's part of the comment candidates' scores, without factor; (S, N)."""
        states = self._encode(self.comment_history, part)
        target_S1 = torch.from_numpy(self.samples.comments.video_T[part, None])
        query_S1D = self.recommender.items.video_queries(target_S1.to(self.device))
        preference_S1D, _ = self.recommender.sequence.comment_preferences(
            states, query_S1D, now(len(target_S1), 1, self.device)
        )
        candidate_SN = torch.from_numpy(self.samples.candidate_SN[part]).to(self.device)
        candidate_SND = self.recommender.comment_candidates(candidate_SN)
        cosine_SN = (candidate_SND @ unit(preference_S1D).transpose(1, 2)).squeeze(2)
        return cosine_SN / self.recommender.config.temperature

    def _encode(self, history: HistoryTensors, part: slice) -> States:
        chosen = HistoryTensors(**{name: array[part] for name, array in vars(history).items()})
        return self.recommender.encode(chosen, self.slices.most_popular(chosen.video_BI))


class Popularity:
    """Videos by training events of all time; comments by likes."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.count_1V = samples.prepared.training_events_V[None, :].astype(np.float32)

    def videos(self, part: slice) -> NDArray[np.float32]:
        """The same ranking for everybody, (S, V)."""
        rows = len(self.samples.videos.user_T[part])
        return np.broadcast_to(self.count_1V, (rows, self.count_1V.shape[1]))

    def comments(self, part: slice) -> NDArray[np.float32]:
        """Comment rows are sorted by likes under each video, (S, N)."""
        return -self.samples.candidate_SN[part].astype(np.float32)


class TextNeighbours:
    """Nearest texts: to the mean title of the history, and to the mean of the own comments."""

    def __init__(self, samples: Samples, text: TextTables) -> None:
        self.samples = samples
        self.title_VE = _unit(text.title_VE)
        self.comment_CE = text.comment_CE
        prepared = samples.prepared
        self.seen_SE = _mean_before(
            prepared,
            samples.videos,
            prepared.video_user_N,
            prepared.timelines.video_order_N,
            text.title_VE[prepared.timelines.video_N],
        )
        self.said_SE = _mean_before(
            prepared,
            samples.comments,
            prepared.comment_user_M,
            prepared.timelines.comment_last_M,
            _mean_comment(prepared, text),
        )

    def videos(self, part: slice) -> NDArray[np.float32]:
        """Cosines of titles with the mean of the history's titles, (S, V)."""
        return _unit(self.seen_SE[part]) @ self.title_VE.T

    def comments(self, part: slice) -> NDArray[np.float32]:
        """Cosines of candidates with the mean of the user's earlier comments, (S, N)."""
        candidate_SNE = _unit(self.comment_CE[self.samples.candidate_SN[part]])
        return np.einsum("sne,se->sn", candidate_SNE, _unit(self.said_SE[part]))


def _mean_comment(prepared: Prepared, text: TextTables) -> NDArray[np.float32]:
    comment_MK = prepared.timelines.comment_MK
    count_M1 = np.maximum(1, (comment_MK > 0).sum(1, keepdims=True))
    return text.comment_CE[comment_MK].sum(1) / count_M1


def _mean_before(
    prepared: Prepared,
    targets: Targets,
    user_N: NDArray[np.int64],
    order_N: NDArray[np.int32],
    vector_NE: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Mean vector of each target's user's events before its cut; zeros without events."""
    start_U1 = np.searchsorted(user_N, np.arange(len(prepared.user_ids) + 1))
    mean_SE = np.zeros((len(targets.user_T), vector_NE.shape[1]), np.float32)
    for sample, (user, cut) in enumerate(zip(targets.user_T, targets.cut_T, strict=True)):
        events = slice(start_U1[user], start_U1[user + 1])
        is_past = order_N[events] < cut
        if is_past.any():
            mean_SE[sample] = vector_NE[events][is_past].mean(0)
    return mean_SE


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()
