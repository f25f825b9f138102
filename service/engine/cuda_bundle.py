"""A warm bundle on a GPU, whose work is launched and then looked after, never waited for.

The encoder, the comment head and the search for videos share a lane, where these read what the
encoder has written on the GPU; comments are searched for in a lane of their own beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from lsvcr.history import HistoryBatch
from service.engine.candidate_index import CandidateBatch, Kind
from service.engine.cuda_encoder import CudaEncoder
from service.engine.cuda_head import CudaHead
from service.engine.cuda_nearest import CudaNearest
from service.engine.cuda_stream import Lane
from service.engine.encoder_session import Encoding, FloatArray
from service.engine.first_look import FirstLook
from service.engine.steps import Steps
from service.engine.warm_bundle import EncodedUsers, WarmBundle

_InTurn = tuple[Encoding, CandidateBatch | None, tuple[FloatArray, FloatArray] | None]


@dataclass(frozen=True)
class WarmCudaBundle(WarmBundle):
    """An index that isn't on the GPU, as of few items, is searched on the CPU.

    Attributes:
        head_there: None where the bundle has no graph for it: then `head` reads, on the CPU.
    """

    encoder: CudaEncoder
    head_there: CudaHead | None = field(kw_only=True)
    lanes: dict[Kind, Lane] = field(kw_only=True)

    in_flight = 2
    """One there, and one that is put together, or sent."""

    def encode(self, history: HistoryBatch, look: FirstLook) -> Steps[EncodedUsers]:
        """As `WarmBundle.encode`; more than the largest batch one after another."""
        users = []
        for start in range(0, len(look.counts), self.encoder.largest):
            some = slice(start, start + self.encoder.largest)
            users.append((yield from self._encode_some(history.take(some), look.take(some))))
        return EncodedUsers.join(users)

    def search(
        self, kind: Kind, query_BX: FloatArray, counts: Sequence[int]
    ) -> Steps[CandidateBatch]:
        """As `WarmBundle.search`."""
        index = self.index(kind)
        if not isinstance(index, CudaNearest):
            return (yield from super().search(kind, query_BX, counts))
        return (yield from self.lanes[kind].take(index.search_alone(query_BX, counts)))

    def reach(self) -> Steps[None]:
        """As `WarmBundle.reach`."""
        for lane in self.lanes.values():
            yield from lane.take(lane.end())

    def let_go(self) -> None:
        """As `WarmBundle.let_go`; what reads what others wrote goes first."""
        if self.head_there is not None:
            self.head_there.let_go()
        super().let_go()

    def _encode_some(self, history: HistoryBatch, look: FirstLook) -> Steps[EncodedUsers]:
        """Encode at most as many as are encoded together."""
        steps = self._encode_in_turn(history, look)
        encoding, candidates, read = yield from self.lanes["video"].take(steps)
        if candidates is None:
            preference_BD = encoding.video_preference_BD
            candidates = yield from self.find_videos(preference_BD, look.counts, look.weights)
        comments = yield from self.look_at_comments(history, encoding, look.comments, read)
        encoding = encoding if look.with_states else encoding.without_states()
        return EncodedUsers(encoding, candidates, comments)

    def _encode_in_turn(self, history: HistoryBatch, look: FirstLook) -> Steps[_InTurn]:
        """Encode, and search and read behind it where that can be launched at the same time."""
        is_read_here = look.comments is not None and self.head_there is None
        shape = self.encoder.launch(
            history,
            for_comments=look.comments is not None,
            with_states=look.with_states or is_read_here,
        )
        find = read = None
        if any(look.counts) and isinstance(self.video_index, CudaNearest):
            _, preference = shape.places["video_preference"]
            weight_B = self.weight_B(look.weights)
            find = self.video_index.launch_behind(preference, look.counts, weight_B)
        if look.comments is not None and self.head_there is not None:
            stream = self.lanes["video"].stream
            read = self.head_there.launch_behind(shape, look.comments, stream)
        yield from self.lanes["video"].end()
        return (
            shape.read(history),
            None if find is None else find(),
            None if read is None else read(history),
        )
