"""How much of the encoder's part is kept beside the others: chosen by validation, for each task.

An encoder is too sure of itself behind a change that it has not seen. Ranking is blind to the scale
of a score, so a factor f of the encoder's part is the same as 1 / f of all parts beside it: that is
how a checkpoint carries it, and nothing that reads one has to know.

Shape suffixes: S samples, V video rows, N candidates, A factors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.encoder import Recommender
from training.evaluate import by_chunks
from training.scorers import EncoderFactors, ModelScorer

FACTORS = tuple(step / 10 for step in range(1, 16))
"""Never 0: what the other parts leave equal, as two videos without any event, is the encoder's."""


def choose_factors(model: ModelScorer) -> EncoderFactors:
    """The factors under which what users chose is likeliest; 1 where nothing stands beside.

    Likelihood, since it is convex in the factor and asks how sure to be, where a ranking metric of
    a thousand users goes up and down by chance.

    Args:
        model: Scores validation samples, without factors.
    """
    samples, parts = model.samples, model.parts_alone.parts
    has_prior = parts.prior_table is not None or model.recommender.repeat is not None
    videos, comments = len(samples.videos.user_T), len(samples.comments.user_T)
    video = comment = 1.0
    if has_prior and videos:
        video = _likeliest(by_chunks(lambda part: _video_losses(model, part), videos))
    if parts.profile_MF is not None and comments:
        comment = _likeliest(by_chunks(lambda part: _comment_losses(model, part), comments))
    return EncoderFactors(video, comment)


@contextmanager
def folded(recommender: Recommender, factors: EncoderFactors) -> Iterator[None]:
    """Divide all that stands beside the encoder's part by its task's factor, while the block runs.

    As it is then written, it ranks by itself as with the factors.
    """
    weights = [
        (weight, factor, weight.detach().clone())
        for part, factor in ((_beside_videos, factors.video), (_beside_comments, factors.comment))
        for weight in part(recommender)
    ]
    with torch.no_grad():
        for weight, factor, _ in weights:
            weight /= factor
        try:
            yield
        finally:
            for weight, _, before in weights:
                weight.copy_(before)


def _beside_videos(recommender: Recommender) -> Iterator[Tensor]:
    """What prior and repeats are proportional to."""
    if recommender.prior is not None:
        last = cast(nn.Linear, recommender.prior.layers[-1])
        yield from (recommender.prior.direct.weight, last.weight, last.bias)
    if recommender.repeat is not None:
        yield recommender.repeat.cosine


def _beside_comments(recommender: Recommender) -> Iterator[Tensor]:
    """What the profile's part is proportional to."""
    if recommender.profile is not None:
        yield from (recommender.profile.scale, recommender.profile.scale_by_count)


def _likeliest(loss_SA: NDArray[np.float64]) -> float:
    return FACTORS[int(loss_SA.mean(0).argmin())]


@torch.no_grad()
def _video_losses(model: ModelScorer, part: slice) -> NDArray[np.float64]:
    """Each video target's cross-entropy among all core videos, by factor; (S, A)."""
    is_core_V = torch.from_numpy(model.samples.prepared.is_core_V).to(model.device)
    target_S = torch.from_numpy(model.samples.videos.video_T[part].astype(np.int64))
    is_target_SV = torch.zeros((len(target_S), len(is_core_V)), dtype=torch.bool)
    is_target_SV.scatter_(1, target_S[:, None], True)
    return _losses(
        model.encoder_videos(part)[:, is_core_V],
        torch.from_numpy(model.parts_alone.videos(part)).to(model.device)[:, is_core_V],
        is_target_SV.to(model.device)[:, is_core_V],
    )


@torch.no_grad()
def _comment_losses(model: ModelScorer, part: slice) -> NDArray[np.float64]:
    """The mean cross-entropy of each one's own comments under a video, by factor; (S, A)."""
    is_candidate_SN = torch.from_numpy(model.samples.candidate_SN[part] > 0).to(model.device)
    beside_SN = torch.from_numpy(model.parts_alone.comments(part)).to(model.device)
    beside_SN = beside_SN.masked_fill(~is_candidate_SN, -torch.inf)
    is_own_SN = torch.from_numpy(model.samples.is_own_SN[part]).to(model.device)
    return _losses(model.encoder_comments(part), beside_SN, is_own_SN)


def _losses(encoder_SN: Tensor, beside_SN: Tensor, is_positive_SN: Tensor) -> NDArray[np.float64]:
    loss_SA = []
    for factor in FACTORS:
        logit_SN = factor * encoder_SN + beside_SN
        positive_SN = logit_SN.where(is_positive_SN, 0.0)
        mean_S = positive_SN.sum(1) / is_positive_SN.sum(1)
        loss_SA.append(logit_SN.logsumexp(1) - mean_S)
    return torch.stack(loss_SA, 1).double().cpu().numpy()
