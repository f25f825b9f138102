"""A warm bundle on a GPU, whose work is launched and then looked after, never waited for.

The encoder and the search for videos share a lane, where one reads what the other has written on
the GPU; comments are searched for in a lane of their own beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lsvcr.history import HistoryBatch
from service.engine.candidate_index import CandidateBatch, Kind
from service.engine.cuda_encoder import CudaEncoder
from service.engine.cuda_nearest import CudaNearest
from service.engine.cuda_stream import Lane
from service.engine.encoder_session import Encoding, FloatArray
from service.engine.steps import Steps
from service.engine.warm_bundle import EncodedUsers, WarmBundle


@dataclass(frozen=True)
class WarmCudaBundle(WarmBundle):
    """An index that isn't on the GPU, as of few items, is searched on the CPU."""

    encoder: CudaEncoder
    lanes: dict[Kind, Lane] = field(kw_only=True)

    in_flight = 2
    """One there, and one that is put together, or sent."""

    def encode(
        self,
        history: HistoryBatch,
        with_comments: bool,
        counts: Sequence[int],
        weights: Sequence[float],
    ) -> Steps[EncodedUsers]:
        """As `WarmBundle.encode`; more than the largest batch one after another."""
        encoded = []
        for start in range(0, len(counts), self.encoder.largest):
            some = slice(start, start + self.encoder.largest)
            weight_B = self.weight_B(weights[some])
            steps = self._encode_part(history.take(some), with_comments, counts[some], weight_B)
            encoding, candidates = yield from self.lanes["video"].take(steps)
            if candidates is None:
                preference_BD = encoding.video_preference_BD
                candidates = yield from self.find_videos(preference_BD, counts[some], weights[some])
            encoded.append((encoding, candidates))
        encodings, found = zip(*encoded, strict=True)
        return EncodedUsers(Encoding.join(encodings), CandidateBatch.join(found))

    def search(
        self, kind: Kind, query_BX: FloatArray, counts: Sequence[int]
    ) -> Steps[CandidateBatch]:
        """As `WarmBundle.search`."""
        index = self.index(kind)
        if not isinstance(index, CudaNearest):
            return (yield from super().search(kind, query_BX, counts))
        return (yield from self.lanes[kind].take(index.search_alone(query_BX, counts)))

    def find_videos(
        self, preference_BD: FloatArray, counts: Sequence[int], weights: Sequence[float]
    ) -> Steps[CandidateBatch]:
        """As `WarmBundle.find_videos`, all at a time where a GPU does it."""
        if not any(counts) or not isinstance(self.video_index, CudaNearest):
            return (yield from super().find_videos(preference_BD, counts, weights))
        return (yield from self.search("video", self._queries(preference_BD, weights), counts))

    def reach(self) -> Steps[None]:
        """As `WarmBundle.reach`."""
        for lane in self.lanes.values():
            yield from lane.take(lane.end())

    def _encode_part(
        self,
        history: HistoryBatch,
        with_comments: bool,
        counts: Sequence[int],
        weight_B: FloatArray,
    ) -> Steps[tuple[Encoding, CandidateBatch | None]]:
        """Encode, and search behind it where that can be launched at the same time."""
        shape = self.encoder.launch(history, with_comments=with_comments)
        find = None
        if any(counts) and isinstance(self.video_index, CudaNearest):
            find = self.video_index.launch_behind(shape.preference, counts, weight_B)
        yield from self.lanes["video"].end()
        return shape.read(history), None if find is None else find()
