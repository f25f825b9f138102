"""How hard to try: `make test` draws a sample, `make fuzz` (profile `fuzz`) takes its time."""

from collections import Counter

from hypothesis import HealthCheck, settings

TRIED: Counter[str] = Counter()
"""Cases by their kind; told at the end."""

_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]


def takes_time() -> bool:
    """Whether this is `make fuzz`."""
    return settings.get_current_profile_name() == "fuzz"


def effort(*, sample: int, fuzz: int) -> settings:
    """Examples of one test; a sample is the same each time."""
    return settings(
        max_examples=fuzz if takes_time() else sample,
        deadline=None,
        derandomize=not takes_time(),
        suppress_health_check=_QUIET,
    )
