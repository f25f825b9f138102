"""Intervals and p-values that hold at every look, however often one looks.

An asymptotic confidence sequence with Robbins' normal mixture: with probability 1 - alpha the
interval covers the truth at all sample sizes at once, so an experiment may be stopped by it.

Source:
    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic
    confidence sequences", Annals of Statistics, 2024 (arXiv:2103.06476), the normal mixture.
"""

from math import exp, log, sqrt


def tuned_rho(alpha: float, planned_units: int) -> float:
    """The mixture's parameter that makes the interval about as narrow as can be at some size.

    sqrt((-2 log alpha + log(1 - 2 log alpha)) / planned_units)
    """
    return sqrt((-2 * log(alpha) + log(1 - 2 * log(alpha))) / planned_units)


def radius(units: int, *, alpha: float, rho: float) -> float:
    """Half the interval's width in standard errors; 1.96 for a fixed-horizon one at 5 %.

    sqrt(2 (n rho² + 1) / (n rho²) · log(sqrt(n rho² + 1) / alpha))
    """
    time = units * rho**2
    return sqrt(2 * (time + 1) / time * log(sqrt(time + 1) / alpha))


def p_value(statistic: float, units: int, *, rho: float) -> float:
    """The smallest alpha whose interval excludes zero: `radius` solved for it.

    Args:
        statistic: The effect in standard errors.
        units: n, of both arms.
        rho: Stays the same over all looks.
    """
    time = units * rho**2
    return min(1.0, sqrt(time + 1) * exp(-(statistic**2) * time / (2 * (time + 1))))
