"""What is told when training stops being numbers."""

from collections.abc import Sequence
from pathlib import Path

from lsvcr.errors import DataError
from training.checkpoint import read_checkpoint

NAMED_USERS = 10


class NotFiniteError(DataError):
    """A loss or a gradient is no number; what was saved before stands."""

    def __init__(
        self, what: str, users: Sequence[str], *, checkpoint: Path, counted: str, lower: str
    ) -> None:
        """Describe it.

        Args:
            what: What is no number, and in which step.
            users: Of the batch; the first few are named.
            checkpoint: What to go on from, if it is there.
            counted: What its notes count: `step` or `epoch`.
            lower: The setting that may help.
        """
        more = ", …" if len(users) > NAMED_USERS else ""
        saved = "nothing is saved yet"
        if checkpoint.exists():
            saved = f"{checkpoint} holds {counted} {read_checkpoint(checkpoint)[1][counted]}"
        super().__init__(
            f"{what} (users {', '.join(users[:NAMED_USERS])}{more}); {saved}. "
            f"Look for extreme values in these users' texts, or lower {lower}"
        )
