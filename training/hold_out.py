"""Who is held out: each user's last targets, or what lies behind a cut in time.

Shape suffix: N events of one side. Labels: 0 train, 1 validation, 2 test, -1 no target, `LATER`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LATER = 4
"""Behind a cut in time, but no target: history of what follows, nothing to learn from."""


class HoldOut(Protocol):
    """A way to label the events of one side."""

    def __call__(
        self,
        user_N: NDArray[np.int64],
        order_N: NDArray[np.int32],
        time_N: NDArray[np.int64],
        is_target_N: NDArray[np.bool_],
    ) -> NDArray[np.int8]:
        """Label events.

        Args:
            user_N: Owner of each event.
            order_N: When it is predicted; later ones of a user have larger numbers.
            time_N: The same in Unix milliseconds.
            is_target_N: What may be asked for; the rest gets -1.
        """


class LeaveOneOut:
    """A user's last target is test, the one before it validation, the others train.

    A user's only target stays in training: nothing would be known before it.
    """

    def __call__(
        self,
        user_N: NDArray[np.int64],
        order_N: NDArray[np.int32],
        time_N: NDArray[np.int64],
        is_target_N: NDArray[np.bool_],
    ) -> NDArray[np.int8]:
        """As `HoldOut`; times do not matter."""
        position_T = _in_order(user_N, order_N, is_target_N)
        user_T = user_N[position_T]
        from_end_T = np.searchsorted(user_T, user_T, "right") - np.arange(len(user_T))
        from_start_T = np.arange(len(user_T)) - np.searchsorted(user_T, user_T)
        label_N = np.where(is_target_N, 0, -1).astype(np.int8)
        label_N[position_T[(from_end_T == 1) & (from_start_T >= 1)]] = 2
        label_N[position_T[(from_end_T == 2) & (from_start_T >= 1)]] = 1
        return label_N


@dataclass(frozen=True)
class TimeCut:
    """Training ends for everybody at one time: nothing that is learned has seen what follows.

    A user's first target between both cuts is validation, the first behind the second is test,
    where the user has an earlier target. All others there are `LATER`.

    Attributes:
        validation_ms, test_ms: Unix milliseconds.
    """

    validation_ms: int
    test_ms: int

    def __call__(
        self,
        user_N: NDArray[np.int64],
        order_N: NDArray[np.int32],
        time_N: NDArray[np.int64],
        is_target_N: NDArray[np.bool_],
    ) -> NDArray[np.int8]:
        """As `HoldOut`."""
        label_N = np.where(is_target_N, 0, -1).astype(np.int8)
        label_N[time_N >= self.validation_ms] = LATER
        position_T = _in_order(user_N, order_N, is_target_N)
        user_T, time_T = user_N[position_T], time_N[position_T]
        period_T = (time_T >= self.validation_ms).astype(np.int8) + (time_T >= self.test_ms)
        is_first_T = np.ones(len(user_T), bool)
        is_first_T[1:] = (user_T[1:] != user_T[:-1]) | (period_T[1:] != period_T[:-1])
        has_earlier_T = np.arange(len(user_T)) > np.searchsorted(user_T, user_T)
        is_held_out_T = is_first_T & has_earlier_T & (period_T > 0)
        label_N[position_T[is_held_out_T]] = period_T[is_held_out_T]
        return label_N


def _in_order(
    user_N: NDArray[np.int64], order_N: NDArray[np.int32], is_target_N: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Positions of the targets, by user and order."""
    position_N = np.lexsort((order_N, user_N))
    return position_N[is_target_N[position_N]]
