"""The parts of a score beside the encoder's: popularity prior and profile similarity.

Shape suffixes: Q targets, V video rows, N candidates, M comment events, F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.comment_features import Profiles, profiles_before
from training.encoder import Recommender
from training.popularity_prior import daily_prior
from training.split import Prepared, TextTables


@dataclass(frozen=True)
class ScoreParts:
    """Both parts at every event of `prepared.timelines`, on one device.

    Attributes:
        day_N: Row of `logit_AV` of each video event; None without a prior.
        logit_AV: float16; None without a prior.
        profile_MF, profile_count_M: None without profiles.
    """

    day_N: Tensor | None = None
    logit_AV: Tensor | None = None
    profile_MF: Tensor | None = None
    profile_count_M: Tensor | None = None

    @classmethod
    def build(
        cls, prepared: Prepared, text: TextTables, recommender: Recommender, device: torch.device
    ) -> "ScoreParts":
        """What a model's configuration asks for and the data can give."""
        config = recommender.config
        weight_H = recommender.prior_weight_H.cpu().numpy()
        prior = daily_prior(prepared, config.prior_half_lives_days, weight_H)
        day_N = logit_AV = profiles = None
        if prior is not None:
            day_N = torch.from_numpy(prior.day_rows(prepared.timelines.video_time_N)).to(device)
            logit_AV = prior.logit_AV.to(device)
        if config.profile_events:
            profiles = profiles_before(prepared, text.feature_CF, config.profile_events)
        return cls(day_N, logit_AV, *_on_device(profiles, device))

    def prior(self, event_Q: Tensor) -> Tensor | None:
        """The prior's logits of all videos on the days of some video events; (Q, V)."""
        if self.day_N is None or self.logit_AV is None:
            return None
        return self.logit_AV[self.day_N[event_Q.long()]]

    def profile(
        self, recommender: Recommender, event_Q: Tensor, comment_QN: Tensor
    ) -> Tensor | None:
        """The profile's logits of candidate comments at some comment events; (Q, N)."""
        if recommender.profile is None or self.profile_MF is None or self.profile_count_M is None:
            return None
        event_Q = event_Q.long()
        logit_QN: Tensor = recommender.profile(
            self.profile_MF[event_Q], self.profile_count_M[event_Q], comment_QN
        )
        return logit_QN


def _on_device(
    profiles: Profiles | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    if profiles is None:
        return None, None
    return (
        torch.from_numpy(profiles.feature_MF).to(device),
        torch.from_numpy(profiles.count_M).to(device),
    )
