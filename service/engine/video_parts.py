"""The parts of a video's score beside the encoder's, for one query: prior and repeats."""

from dataclasses import dataclass

import numpy as np

from service.engine.popularity_prior import PopularityPrior
from service.engine.retrieval import no_rows_beside
from service.engine.scoring import Parts, Proposed, Rows


@dataclass(frozen=True, slots=True)
class Repeats:
    """What a user has watched before, where a query may show it again.

    Attributes:
        seen_N: Catalogue rows, in any order.
        logit: What each of them adds to its score.
    """

    seen_N: Rows
    logit: float


@dataclass(frozen=True, slots=True)
class VideoParts:
    """What stands beside the encoder's part.

    Attributes:
        prior: None without one.
        weight: Of the prior, above 0.
        repeats: None where nothing seen may appear, or the model doesn't tell it from the rest.
    """

    prior: PopularityPrior | None
    weight: float
    repeats: Repeats | None

    def of(self, row_N: Rows) -> Parts:
        """The parts of some rows' scores."""
        parts = {} if self.prior is None else self.prior.parts(row_N, weight=self.weight)
        if self.repeats is not None:
            is_seen_N = np.isin(row_N, self.repeats.seen_N)
            parts["repeat"] = is_seen_N * np.float32(self.repeats.logit)
        return parts

    def propose(self, count: int) -> Proposed:
        """The most popular rows and all that was seen: repeats add nothing to any row left out."""
        proposed = no_rows_beside(count)
        if self.prior is not None:
            proposed = self.prior.propose(count, weight=self.weight)
        if self.repeats is None:
            return proposed
        row_N = np.union1d(proposed.row_N, self.repeats.seen_N).astype(np.int64)
        return Proposed(row_N, proposed.floor)
