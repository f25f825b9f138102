"""What the demo gives up with."""

from lsvcr.errors import LsvcrError


class DemoError(LsvcrError):
    """A step of the demo failed; its text says which and why."""
