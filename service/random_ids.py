"""Ids for requests and recommendations: unlikely to meet again, and no secret.

They come from a generator of our own, seeded by the system once: asking the system each time lets
go of the interpreter lock, and getting it back from the model's thread takes longer than the rest
of a request.
"""

import random
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_RANDOM = random.Random()


def new_recommendation_id() -> str:
    """Make a ULID, which sorts by time: 48 bits of Unix milliseconds, then 80 random bits."""
    number = time.time_ns() // 1_000_000 << 80 | _RANDOM.getrandbits(80)
    return "".join([_PAIRS[number >> shift & 0x3FF] for shift in range(120, -1, -10)])


def new_request_id() -> str:
    """Make 32 hexadecimal digits."""
    return f"{_RANDOM.getrandbits(128):032x}"
