"""What is asked about the users of a batch when they are encoded, and what comes of it.

Shape suffixes: A users whose comments are asked for, J comment slots, F numbers of a profile, D
width, X of a target: a vector, and behind it how much of the user's own preference comes to it.
"""

from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np

from service.engine.candidate_index import CandidateBatch, widened
from service.engine.encoder_session import FloatArray

Array = np.ndarray


class CommentLook(msgspec.Struct, frozen=True, eq=False, array_like=True):
    """What is asked about comments.

    Attributes:
        users: Whose, as their places in the batch, in order.
        target_AX: float32; what the comment head is told to look for.
        counts: Of all comments, how many candidates to fetch for each.
        weight_AF: float32; of their profiles in this, where the index takes parts; else F = 0.
    """

    users: list[int]
    target_AX: Array
    counts: list[int]
    weight_AF: Array


class FirstLook(msgspec.Struct, frozen=True, eq=False, array_like=True):
    """All that is asked about B users.

    Attributes:
        counts: How many candidate videos to fetch for each.
        weights: Of the prior for each of them, where the index takes parts; 0 takes the nearest by
            the encoder alone.
        with_states: Whether what the comment head reads is wanted, too.
        comments: None where nobody asks for any.
    """

    counts: list[int]
    weights: list[float]
    with_states: bool = False
    comments: CommentLook | None = None

    def take(self, some: slice) -> Self:
        """What is asked about some users in a row."""
        start, end, _ = some.indices(len(self.counts))
        if end - start == len(self.counts):
            return self
        comments = self.comments
        if comments is not None:
            asked = [at for at, user in enumerate(comments.users) if start <= user < end]
            comments = CommentLook(
                [comments.users[at] - start for at in asked],
                comments.target_AX[asked],
                [comments.counts[at] for at in asked],
                comments.weight_AF[asked],
            )
            comments = comments if asked else None
        return type(self)(self.counts[some], self.weights[some], self.with_states, comments)

    @classmethod
    def join(cls, looks: Sequence[Self]) -> Self:
        """Those at several batches that become one; at least one."""
        if len(looks) == 1:
            return looks[0]
        return cls(
            [count for look in looks for count in look.counts],
            [weight for look in looks for weight in look.weights],
            any(look.with_states for look in looks),
            _join_comments(looks),
        )


def _join_comments(looks: Sequence[FirstLook]) -> CommentLook | None:
    asked, users, first = list[CommentLook](), list[int](), 0
    for look in looks:
        if look.comments is not None:
            asked.append(look.comments)
            users += [first + user for user in look.comments.users]
        first += len(look.counts)
    if not asked:
        return None
    widest = max(one.weight_AF.shape[1] for one in asked)
    return CommentLook(
        users,
        np.concatenate([one.target_AX for one in asked]),
        [count for one in asked for count in one.counts],
        np.concatenate([widened(one.weight_AF, widest, 0) for one in asked]),
    )


class CommentTastes(msgspec.Struct, frozen=True, eq=False):
    """What came of it for comments.

    Attributes:
        preference_AD: Unit vectors in the space of candidate comments.
        share_AJ: Attention of each over the comment slots; sums to 1.
        candidates: What was fetched.
    """

    preference_AD: FloatArray
    share_AJ: FloatArray
    candidates: CandidateBatch

    @classmethod
    def join(cls, tastes: Sequence[Self]) -> Self:
        """Those of several batches; at least one."""
        if len(tastes) == 1:
            return tastes[0]
        return cls(
            np.concatenate([one.preference_AD for one in tastes]),
            np.concatenate([one.share_AJ for one in tastes]),
            CandidateBatch.join([one.candidates for one in tastes]),
        )
