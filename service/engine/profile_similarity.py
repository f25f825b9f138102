"""Profile similarity: how much a comment is like those that the user took part in before.

Shape suffixes: B users, M comment events, K comments of one, C comment rows, N rows to score,
F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lsvcr import loops
from lsvcr.bundle import SHORTEST_PROFILE, Bundle, ProfileEntry
from lsvcr.history import IntArray
from service.engine.fetched_ranking import Pairs
from service.engine.scoring import Rows, cosines


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

    def profiles(
        self, comment_MK: NDArray[np.int32], comment_start_B1: NDArray[np.int64]
    ) -> list[Profile]:
        """Each user's profile from all comment events, as training knows them at the last one.

        Args:
            comment_MK: Comment rows of the events, user by user; 0 where there are fewer.
            comment_start_B1: User b's events are from `comment_start_B1[b]` to `[b + 1]`.
        """
        rows = [
            _comments(comment_MK[max(start, end - self._entry.events) : end])
            for start, end in pairwise(comment_start_B1.tolist())
        ]
        feature_NF = self._features(np.concatenate(rows))
        start_B, count_B = loops.starts_of(rows)[:-1], np.array([*map(len, rows)])
        mean_BF = np.zeros((len(rows), self.width), np.float32)
        if len(feature_NF):
            has_any_B = count_B > 0  # without, it would take what stands there, the next one's
            mean_BF[has_any_B] = np.add.reduceat(feature_NF, start_B[has_any_B])
        mean_BF /= np.maximum(count_B, 1).astype(np.float32)[:, None]
        length_B = np.linalg.norm(mean_BF, axis=1)
        mean_BF /= np.maximum(length_B, np.float32(SHORTEST_PROFILE))[:, None]
        scale_B = self._entry.scale + self._entry.scale_by_count * np.log1p(count_B)
        return [*map(Profile, mean_BF, scale_B.tolist())]

    def weights(
        self, profiles: Sequence[Profile | None], temperature: float
    ) -> NDArray[np.float32]:
        """What profiles add to queries of an index, (B, F), in units of a cosine."""
        weight_BF = np.zeros((len(profiles), self.width), np.float32)
        for weight_F, profile in zip(weight_BF, profiles, strict=True):
            if profile is not None:
                weight_F[:] = profile.direction_F * np.float32(profile.scale * temperature)
        return weight_BF

    @property
    def width(self) -> int:
        """F."""
        return int(self._table_CF.shape[1])

    def logits(self, profiles: Sequence[Profile], pairs: Pairs) -> NDArray[np.float32]:
        """Compute the profiles' part of the scores of some pairs, which belong to them in turn."""
        feature_NF = self._features(pairs.row_N)
        direction_BF = np.stack([profile.direction_F for profile in profiles])
        cosine_N = cosines(feature_NF, np.arange(len(feature_NF)), direction_BF, pairs.start_B1)
        norm_N = np.sqrt(np.einsum("nf,nf->n", feature_NF, feature_NF))
        cosine_N /= np.maximum(norm_N, np.float32(SHORTEST_PROFILE))
        scale_B = np.array([profile.scale for profile in profiles], np.float32)
        return cosine_N * pairs.for_each(scale_B)

    def _features(self, row_N: Rows) -> NDArray[np.float32]:
        table_CF = self._table_CF
        if table_CF.dtype != np.float16:  # as in bundles of older versions
            return table_CF[row_N].astype(np.float32, copy=False)
        feature_NF = np.empty((len(row_N), self.width), np.float32)
        place_N = np.ascontiguousarray(row_N, np.int64)
        loops.read_halves(len(table_CF), self.width, table_CF, place_N, feature_NF)
        return feature_NF


def _comments(comment_MK: IntArray) -> IntArray:
    return comment_MK[comment_MK > 0]
