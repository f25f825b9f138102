"""A bundle with its encoder and indexes, checked and warmed up, and what is computed with them.

Shape suffixes: B users, A of them whose comments are asked for, X numbers of a query, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lsvcr.bundle import Bundle
from lsvcr.history import HistoryBatch
from service.engine.candidate_index import CandidateBatch, Index, Kind
from service.engine.encoder_session import CommentHead, CpuEncoder, Encoding, FloatArray
from service.engine.first_look import CommentLook, CommentTastes, FirstLook
from service.engine.steps import Steps, go_on

SEARCHED_AT_ONCE = 8
"""Users for whom a CPU fetches candidates before the event loop has its turn."""


@dataclass(frozen=True, slots=True)
class EncodedUsers:
    """What one batch of histories became.

    Attributes:
        candidates: For each user the videos nearest to their preference, or with the prior's part
            in it.
        comments: Where they were asked for.
    """

    encoding: Encoding
    candidates: CandidateBatch
    comments: CommentTastes | None

    @classmethod
    def join(cls, users: Sequence["EncodedUsers"]) -> "EncodedUsers":
        """Those of several batches with histories of as many slots; at least one."""
        if len(users) == 1:
            return users[0]
        comments = [one.comments for one in users if one.comments is not None]
        return cls(
            Encoding.join([one.encoding for one in users]),
            CandidateBatch.join([one.candidates for one in users]),
            CommentTastes.join(comments) if comments else None,
        )


@dataclass(frozen=True)
class WarmBundle:
    """On the CPU, in the thread of whoever asks: every hand-over costs more than it brings.

    Attributes:
        in_flight: Batches worth having under way at a time.
    """

    bundle: Bundle
    encoder: CpuEncoder
    head: CommentHead
    video_index: Index
    comment_index: Index

    in_flight = 1

    def encode(self, history: HistoryBatch, look: FirstLook) -> Steps[EncodedUsers]:
        """Encode B >= 1 users and fetch candidates for each, as `OpenBundle.encode`."""
        with_states = look.with_states or look.comments is not None
        encoding = yield from self.encoder.encode_in_steps(history, with_states=with_states)
        candidates = yield from self.find_videos(
            encoding.video_preference_BD, look.counts, look.weights
        )
        comments = yield from self.look_at_comments(history, encoding, look.comments)
        encoding = encoding if look.with_states else encoding.without_states()
        return EncodedUsers(encoding, candidates, comments)

    def search(
        self, kind: Kind, query_BX: FloatArray, counts: Sequence[int]
    ) -> Steps[CandidateBatch]:
        """Find each query's nearest rows of one kind, few at a time: each may take 1 ms."""
        found = []
        for start in range(0, len(counts), SEARCHED_AT_ONCE):
            few = slice(start, start + SEARCHED_AT_ONCE)
            found.append(self.index(kind).search(query_BX[few], counts[few]))
            yield go_on
        return CandidateBatch.join(found)

    def find_videos(
        self, preference_BD: FloatArray, counts: Sequence[int], weights: Sequence[float]
    ) -> Steps[CandidateBatch]:
        """Find each user's nearest videos, with the prior's part where the index takes it."""
        query_BX = _finite(preference_BD)
        if self.video_index.extent.takes_parts and any(weights):
            query_BX = np.column_stack([query_BX, self.weight_B(weights)])
        return (yield from self._find("video", query_BX, counts))

    def look_at_comments(
        self,
        history: HistoryBatch,
        encoding: Encoding,
        look: CommentLook | None,
        read: tuple[FloatArray, FloatArray] | None = None,
    ) -> Steps[CommentTastes | None]:
        """Find what is nearest to what the comment head says, among all; None where nobody asks.

        Args:
            read: What it said, where that is known already.
        """
        if look is None:
            return None
        if read is None:
            read = self.head.read(history, encoding, look.users, look.target_AX)
        preference_AD, share_AJ = read
        query_AX = np.column_stack([_finite(preference_AD), look.weight_AF])
        found = yield from self._find("comment", query_AX, look.counts)
        return CommentTastes(preference_AD, share_AJ, found)

    def index(self, kind: Kind) -> Index:
        """That of items of one kind."""
        return self.video_index if kind == "video" else self.comment_index

    def reach(self) -> Steps[None]:
        """Come back when whatever computes has had a turn; never, where it is stuck."""
        yield from ()

    def let_go(self) -> None:
        """Free what is held elsewhere, in many turns: others may be answered there."""
        for part in (self.encoder, self.video_index, self.comment_index):
            part.let_go()

    def _find(
        self, kind: Kind, query_BX: FloatArray, counts: Sequence[int]
    ) -> Steps[CandidateBatch]:
        """Search for those who ask for any."""
        asking = np.flatnonzero(counts)
        if not len(asking):
            return CandidateBatch.nothing(counts, self.index(kind).extent.rows)
        asked = [counts[place] for place in asking.tolist()]
        found = yield from self.search(kind, query_BX[asking], asked)
        return found.spread(asking, counts)

    def weight_B(self, weights: Sequence[float]) -> FloatArray:
        """Of the prior, in units of a cosine."""
        return np.array(weights, np.float32) * np.float32(self.bundle.manifest.temperature)


def _finite(query_BD: FloatArray) -> FloatArray:
    """What isn't finite finds nothing, and must not disturb its neighbours."""
    return np.where(np.isfinite(query_BD), query_BD, np.float32(0))
