"""The report's plots show what is known even beside what isn't."""

import re
from itertools import pairwise

from analysis.charts import LABELS, WIDTH, draw_intervals
from analysis.comparison import Comparison, Estimate


def comparison(title: str, value: float, reach: float) -> Comparison:
    lift = Estimate(
        value=value,
        fixed_horizon=(max(-1.0, value - reach / 2), value + reach / 2),
        always_valid=(max(-1.0, value - reach), value + reach),
    )
    return Comparison(
        metric=title,
        title=title,
        arm="b",
        control_mean=1,
        arm_mean=1,
        difference=lift,
        lift=lift,
        p_fixed_horizon=0.5,
        p_always_valid=0.5,
        p_adjusted=0.5,
        variance_kept=1,
    )


def test_one_hopeless_interval_does_not_flatten_the_others() -> None:
    known = [comparison(f"metric {n}", value, 0.1) for n, value in enumerate((-0.2, 0.0, 0.2))]
    drawn = draw_intervals([*known, comparison("few likes", 40.0, 3e20)])
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    assert len(places) == 4
    assert all(LABELS <= place <= WIDTH for place in places)
    assert all(right - left > 40 for left, right in pairwise(places))
    lines = [float(x) for x in re.findall(r'x[12]="([-\d.]+)"', drawn)]
    assert all(0 <= x <= WIDTH for x in lines)
