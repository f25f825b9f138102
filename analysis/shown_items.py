"""How much of the catalogue an arm shows, and how evenly."""

import numpy as np
import polars as pl
from pydantic import BaseModel
from scipy.special import gammaln


class ShownItems(BaseModel):
    """Videos or comments that one arm showed.

    Attributes:
        shown: Places filled, over all answers.
        distinct: Different items among them.
        coverage: Different items to expect among as many places as the arm with the fewest filled
            (Hurlbert's rarefaction), so that arms of different size can be compared.
        diversity: The exponential of the items' Shannon entropy: as many equally frequent items
            would be as diverse.
    """

    shown: int
    distinct: int
    coverage: float
    diversity: float


def describe_shown_items(exposures: pl.DataFrame, column: str) -> dict[str, ShownItems]:
    """Describe the items in a list column, by arm; arms that showed none are left out.

    Source:
        Hurlbert, "The nonconcept of species diversity", Ecology 52(4), 1971; Hill, "Diversity and
        evenness", Ecology 54(2), 1973 (order 1).
    """
    places = exposures.select("arm", item=column).explode("item").drop_nulls("item")
    counts = places.group_by("arm", "item").len().sort("arm", "item")
    by_arm = {
        str(arm): rows["len"].to_numpy().astype(np.float64)
        for (arm,), rows in counts.group_by("arm", maintain_order=True)
    }
    fewest = min((count_I.sum() for count_I in by_arm.values()), default=0.0)
    return {arm: _describe(count_I, fewest) for arm, count_I in by_arm.items()}


def _describe(count_I: np.ndarray, places: float) -> ShownItems:
    total = count_I.sum()
    share_I = count_I / total
    rest_I = total - count_I
    is_missable_I = rest_I >= places
    # log of C(total - count, places) / C(total, places), the chance to miss an item
    missed_I = (
        gammaln(rest_I[is_missable_I] + 1)
        - gammaln(rest_I[is_missable_I] - places + 1)
        - gammaln(total + 1)
        + gammaln(total - places + 1)
    )
    return ShownItems(
        shown=int(total),
        distinct=len(count_I),
        coverage=float(len(count_I) - np.exp(missed_I).sum()),
        diversity=float(np.exp(-(share_I * np.log(share_I)).sum())),
    )
