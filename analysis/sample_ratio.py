"""Did the arms get the shares of units that they were meant to get?"""

from collections.abc import Mapping

from pydantic import BaseModel
from scipy.stats import chisquare

SUSPICIOUS = 0.001


class SampleRatio(BaseModel):
    """Observed and expected units by arm, and the chi-square test of the difference."""

    observed: dict[str, int]
    expected: dict[str, float]
    p_value: float

    @property
    def is_off(self) -> bool:
        """Whether the difference is too large to be chance: the assignment is broken somewhere."""
        return self.p_value < SUSPICIOUS


def check_sample_ratio(observed: Mapping[str, int], weights: Mapping[str, float]) -> SampleRatio:
    """Pearson's chi-square test of the units in each arm against the arms' weights."""
    total, all_weights = sum(observed.values()), sum(weights.values())
    expected = {arm: total * weight / all_weights for arm, weight in weights.items()}
    counts = {arm: observed.get(arm, 0) for arm in weights}
    test = chisquare(list(counts.values()), list(expected.values()))
    return SampleRatio(observed=counts, expected=expected, p_value=float(test.pvalue))
