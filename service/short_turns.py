"""Lets threads of a process wait less for one another."""

import sys

_TURN_S = 0.0005
"""How long a thread of Python goes on while another one waits. With Python's 5 ms an event loop
would wait so long at each of its steps while a thread opens a bundle, and so would a batch at each
step of its way through an engine's threads."""


def take_short_turns() -> None:
    """From now on, in the whole process."""
    sys.setswitchinterval(_TURN_S)
