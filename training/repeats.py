"""Which videos a target's user has watched before.

Shape suffixes: R rows, T targets of a row, Q targets, flat, I history slots, N candidates in order,
S drawn candidates.
"""

import torch
from torch import Tensor

from training.batches import TrainingRows


def seen_by(rows: TrainingRows, slot_Q: Tensor) -> Tensor:
    """Videos that lie before some video targets in their rows; (Q, I), 0 = none.

    Args:
        rows: A batch.
        slot_Q: Positions in the flat (R, T) of the row's targets.
    """
    row_Q = slot_Q // rows.video_cut_RT.shape[1]
    cut_Q1 = rows.video_cut_RT.flatten()[slot_Q][:, None]
    is_past_QI = rows.history.video_order_BI[row_Q] < cut_Q1
    return rows.history.video_BI[row_Q] * is_past_QI


def is_among_all(position_QI: Tensor, candidates: int) -> Tensor:
    """Which of the candidates 0, 1, … are among each target's positions; (Q, N).

    A position of `candidates` stands for none.
    """
    shape = (len(position_QI), candidates + 1)
    is_seen_QN = torch.zeros(shape, dtype=torch.bool, device=position_QI.device)
    return is_seen_QN.scatter_(1, position_QI.long(), True)[:, :-1]


def is_among_drawn(position_QI: Tensor, drawn_S: Tensor) -> Tensor:
    """The same for drawn candidates, some of them maybe twice; (Q, S).

    Takes no Q times I times S: among the sorted draws, the first and the one behind the last that
    equal a position are marked, and the marks summed up.
    """
    drawn_S, order_S = drawn_S.sort()
    shape = (len(position_QI), len(drawn_S) + 1)
    step_QS = torch.zeros(shape, dtype=torch.int32, device=position_QI.device)
    for is_end, step in ((False, 1), (True, -1)):
        at_QI = torch.searchsorted(drawn_S, position_QI.contiguous(), right=is_end)
        step_QS.scatter_add_(1, at_QI, torch.full_like(at_QI, step, dtype=torch.int32))
    return (step_QS.cumsum(1)[:, :-1] > 0)[:, order_S.argsort()]
