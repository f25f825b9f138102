"""The parts of a score beside the encoder's: popularity prior and profile similarity.

Shape suffixes: Q targets, V video rows, N candidates, M comment events, F features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.comment_features import Profiles, profiles_before
from training.encoder import Recommender
from training.popularity_prior import PriorTable, prior_table
from training.split import Prepared, TextTables


@dataclass(frozen=True)
class ScoreParts:
    """Both parts at every event of `prepared.timelines`, on one device.

    Attributes:
        prior_table: None without a prior.
        profile_MF, profile_count_M: None without profiles.
    """

    prior_table: PriorTable | None = None
    profile_MF: Tensor | None = None
    profile_count_M: Tensor | None = None

    @classmethod
    def build(
        cls,
        prepared: Prepared,
        text: TextTables,
        recommender: Recommender,
        asked_N: NDArray[np.int64],
        device: torch.device,
    ) -> "ScoreParts":
        """What a model's configuration asks for and the data can give.

        `asked_N` are the video events whose prior will be asked for: it makes one row an hour.
        """
        config = recommender.config
        prior = prior_table(
            prepared, config.prior_half_lives_days, recommender.prior, asked_N, device
        )
        profiles = None
        if config.profile_events:
            profiles = profiles_before(prepared, text.feature_CF, config.profile_events)
        return cls(prior, *_on_device(profiles, device))

    def prior(self, event_Q: Tensor) -> Tensor | None:
        """The prior's logits of all videos at the hours of some video events; (Q, V)."""
        if self.prior_table is None:
            return None
        return self.prior_table.logit_AV[self.prior_table.row_N[event_Q.long()]]

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
