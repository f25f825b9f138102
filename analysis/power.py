"""How many units, and how many days, an experiment needs."""

from dataclasses import dataclass
from math import ceil

import tea_tasting as tt
import tea_tasting.aggr


@dataclass(frozen=True)
class Need:
    """What it takes to find a relative lift; `days` is None where the daily units aren't known."""

    lift: float
    units: int
    days: int | None


def units_needed(
    lift: float,
    *,
    mean: float,
    deviation: float,
    alpha: float = 0.05,
    power: float = 0.8,
    control_share: float = 0.5,
    variance_kept: float = 1.0,
    units_per_day: float | None = None,
) -> Need:
    """Units of both arms together for a fixed-horizon test of a mean.

    Args:
        lift: The smallest relative lift worth finding, not 0.
        mean: Of the metric per unit, positive.
        deviation: Standard deviation of the metric between units.
        alpha: Two-sided.
        power: The chance to find the lift where it is there.
        control_share: Of the units.
        variance_kept: Share of the variance that CUPED leaves, as an earlier report tells.
        units_per_day: New units a day; gives the duration.
    """
    metric = tt.Mean(
        "value",
        use_t=False,
        alpha=alpha,
        power=power,
        ratio=(1 - control_share) / control_share,
        rel_effect_size=lift,
    )
    seen = tea_tasting.aggr.Aggregates(
        count_=2, mean_={"value": mean}, var_={"value": deviation**2 * variance_kept}
    )
    units = int(metric.solve_power_from_aggregates(seen, "n_obs")[0].n_obs)
    return Need(lift, units, None if units_per_day is None else ceil(units / units_per_day))
