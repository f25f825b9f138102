"""Ids for requests and recommendations: unlikely to meet again, and no secret.

They come from a generator of our own, seeded by the system once: asking the system each time lets
go of the interpreter lock, and getting it back from the model's thread takes longer than the rest
of a request.
"""

import random
import time
from functools import lru_cache

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_DIGIT_OF_BYTE = (_ALPHABET * 8).encode()
_TIME_SHIFTS = range(40, -1, -10)
_RANDOM_LENGTH = 16  # 80 bits
_AT_ONCE = 256

_RANDOM = random.Random()
_random_parts: list[str] = []


def new_recommendation_id() -> str:
    """Make a ULID, which sorts by time: 48 bits of Unix milliseconds, then 80 random bits.

    The random part is drawn for many at once, at a quarter of the cost.
    """
    if not _random_parts:
        _random_parts.extend(_draw_parts())
    return _time_part(time.time_ns() // 1_000_000) + _random_parts.pop()


def new_request_id() -> str:
    """Make 32 hexadecimal digits."""
    return f"{_RANDOM.getrandbits(128):032x}"


@lru_cache(maxsize=1)
def _time_part(time_ms: int) -> str:
    return "".join([_PAIRS[time_ms >> shift & 0x3FF] for shift in _TIME_SHIFTS])


def _draw_parts() -> list[str]:
    drawn = _RANDOM.randbytes(_AT_ONCE * _RANDOM_LENGTH)
    text, starts = drawn.translate(_DIGIT_OF_BYTE).decode(), range(0, len(drawn), _RANDOM_LENGTH)
    return [text[start : start + _RANDOM_LENGTH] for start in starts]
