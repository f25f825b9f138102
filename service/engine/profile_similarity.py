"""Profile similarity: how much a comment is like those that the user took part in before.

Shape suffixes: B users, M comment events, K comments of one, C comment rows, N rows to score,
F features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import SHORTEST_PROFILE, Bundle, ProfileEntry
from lsvcr.history import IntArray, Timelines
from service.engine.scoring import Rows


@dataclass(frozen=True, slots=True)
class Profile:
    """One user's.

    Attributes:
        direction_F: float32 unit vector; zero without comments.
        scale: What a cosine is multiplied by.
    """

    direction_F: NDArray[np.float32]
    scale: float


class ProfileSimilarity:
    """One bundle's comments as profiles see them."""

    def __init__(self, table_CF: NDArray[np.floating], entry: ProfileEntry) -> None:
        self._table_CF = table_CF
        self._entry = entry

    @classmethod
    def of(cls, bundle: Bundle) -> "ProfileSimilarity | None":
        """Open a bundle's; None for a bundle without."""
        if bundle.manifest.profile is None or bundle.comment_profile_CF is None:
            return None
        return cls(bundle.comment_profile_CF, bundle.manifest.profile)

    def profiles(self, timelines: Timelines) -> list[Profile]:
        """Each user's profile from all comment events, as training knows them at the last one."""
        bounds = zip(timelines.comment_start_U1, timelines.comment_start_U1[1:], strict=False)
        return [
            self._profile(timelines.comment_MK[max(start, end - self._entry.events) : end])
            for start, end in bounds
        ]

    @property
    def width(self) -> int:
        """F."""
        return int(self._table_CF.shape[1])

    def logits(self, profile: Profile, row_N: Rows) -> NDArray[np.float32]:
        """Compute the profile's part of some rows' scores."""
        feature_NF = self._table_CF[row_N].astype(np.float32)
        cosine_N = np.einsum("nf,f->n", feature_NF, profile.direction_F)
        norm_N = np.linalg.norm(feature_NF, axis=1)
        logit_N: NDArray[np.float32] = cosine_N / np.maximum(norm_N, np.float32(SHORTEST_PROFILE))
        return logit_N * np.float32(profile.scale)

    def _profile(self, comment_MK: IntArray) -> Profile:
        row_N = comment_MK[comment_MK > 0]
        mean_F = self._table_CF[row_N].astype(np.float32).sum(axis=0) / max(len(row_N), 1)
        direction_F = mean_F / np.float32(max(float(np.linalg.norm(mean_F)), SHORTEST_PROFILE))
        scale = self._entry.scale + self._entry.scale_by_count * np.log1p(len(row_N))
        return Profile(direction_F, float(scale))
