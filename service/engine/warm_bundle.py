"""A bundle with its encoder and indexes, checked and warmed up, and what is computed with them.

Shape suffixes: B users, X numbers of a query, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lsvcr.bundle import Bundle
from lsvcr.history import HistoryBatch
from service.engine.candidate_index import CandidateBatch, Index, Kind
from service.engine.encoder_session import CpuEncoder, Encoding, FloatArray
from service.engine.steps import Steps, go_on

SEARCHED_AT_ONCE = 8
"""Users for whom a CPU fetches candidates before the event loop has its turn."""


@dataclass(frozen=True, slots=True)
class EncodedUsers:
    """What one batch of histories became.

    Attributes:
        candidates: For each user the videos nearest to their preference, or with the prior's part
            in it.
    """

    encoding: Encoding
    candidates: CandidateBatch


@dataclass(frozen=True)
class WarmBundle:
    """On the CPU, in the thread of whoever asks: every hand-over costs more than it brings.

    Attributes:
        in_flight: Batches worth having under way at a time.
    """

    bundle: Bundle
    encoder: CpuEncoder
    video_index: Index
    comment_index: Index

    in_flight = 1

    def encode(
        self,
        history: HistoryBatch,
        with_comments: bool,
        counts: Sequence[int],
        weights: Sequence[float],
    ) -> Steps[EncodedUsers]:
        """Encode B >= 1 users and fetch candidate videos for each, as `OpenBundle.encode`."""
        encoding = yield from self.encoder.encode_in_steps(history, with_comments=with_comments)
        candidates = yield from self.find_videos(encoding.video_preference_BD, counts, weights)
        return EncodedUsers(encoding, candidates)

    def search(
        self, kind: Kind, query_BX: FloatArray, counts: Sequence[int]
    ) -> Steps[CandidateBatch]:
        """Find each query's nearest rows of one kind."""
        yield from ()  # it is one step
        return self.index(kind).search(query_BX, counts)

    def find_videos(
        self, preference_BD: FloatArray, counts: Sequence[int], weights: Sequence[float]
    ) -> Steps[CandidateBatch]:
        """Find each user's nearest videos, few at a time: of a million each takes 1 ms."""
        if not any(counts):
            return CandidateBatch.nothing(counts, self.video_index.extent.rows)
        query_BX = self._queries(preference_BD, weights)
        found = []
        for start in range(0, len(counts), SEARCHED_AT_ONCE):
            few = slice(start, start + SEARCHED_AT_ONCE)
            found.append(self.video_index.search(query_BX[few], counts[few]))
            yield go_on
        return CandidateBatch.join(found)

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

    def _queries(self, preference_BD: FloatArray, weights: Sequence[float]) -> FloatArray:
        """Of videos, with the prior's weight behind them where the index takes parts."""
        # What isn't finite finds nothing, and must not disturb its neighbours.
        query_BX = np.where(np.isfinite(preference_BD), preference_BD, np.float32(0))
        if self.video_index.extent.takes_parts and any(weights):
            return np.column_stack([query_BX, self.weight_B(weights)])
        return query_BX

    def weight_B(self, weights: Sequence[float]) -> FloatArray:
        """Of the prior, in units of a cosine."""
        return np.array(weights, np.float32) * np.float32(self.bundle.manifest.temperature)
