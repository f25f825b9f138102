"""Names answers by ULIDs: 26 characters that sort by time and can't be guessed."""

import os
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]


def new_recommendation_id() -> str:
    """48 bits of Unix milliseconds, then 80 random bits."""
    number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join([_PAIRS[number >> shift & 0x3FF] for shift in range(120, -1, -10)])
