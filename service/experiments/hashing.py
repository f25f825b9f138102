"""GrowthBook's public hashing, so that gateways and analysis find the same arm in any language.

A string is hashed by its code points, as GrowthBook's Python library does it.
"""

from collections.abc import Sequence

Range = tuple[float, float]
"""Half open: a bucket is in it from the first number on, up to the second."""

_OFFSET, _PRIME = 0x811C9DC5, 0x01000193
_WEIGHTS_TOLERANCE = 0.01


def fnv1a_32(text: str) -> int:
    """Hash a text with 32-bit FNV-1a."""
    value = _OFFSET
    for character in text:
        value = (value ^ ord(character)) * _PRIME & 0xFFFFFFFF
    return value


def bucket_of(seed: str, unit: str) -> float:
    """Where a unit stands in [0, 1), with four decimals: GrowthBook's hash, version 2."""
    return fnv1a_32(str(fnv1a_32(seed + unit))) % 10_000 / 10_000


def namespace_bucket(namespace: str, unit: str) -> float:
    """Where a unit stands in a namespace, with three decimals: GrowthBook's `inNamespace`."""
    return fnv1a_32(unit + "__" + namespace) % 1000 / 1000


def bucket_ranges(weights: Sequence[float], coverage: float) -> list[Range]:
    """Give each arm its range: it starts at the sum of the weights before it.

    The start doesn't depend on the coverage, so raising that moves nobody from arm to arm.

    Args:
        weights: Sum to 1.
        coverage: In [0, 1]; the part of each arm's range that is in use.
    """
    ranges, start = [], 0.0
    for weight in weights:
        ranges.append((start, start + coverage * weight))
        start += weight
    return ranges


def sum_to_one(weights: Sequence[float]) -> bool:
    """Whether weights sum to 1, as exactly as GrowthBook asks for."""
    return abs(sum(weights) - 1) <= _WEIGHTS_TOLERANCE + 1e-9


def choose_arm(bucket: float, ranges: Sequence[Range]) -> int | None:
    """The position of the range that a bucket is in; None where it is in none."""
    for position, (start, end) in enumerate(ranges):
        if start <= bucket < end:
            return position
    return None
