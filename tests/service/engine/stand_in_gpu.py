"""Stands in for a GPU where there is none: a stream told when it is idle, an encoder, a head."""

import threading
from typing import Self, cast

from lsvcr.history import HistoryBatch
from service.engine.cuda_head import Read
from service.engine.cuda_stream import Lane, Stream
from service.engine.encoder_session import CommentHead, CpuEncoder, Encoding, FloatArray
from service.engine.first_look import CommentLook

SOON_S = 60.0


class SlowStream:
    """Is idle once `done` is set."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.done.set()

    @property
    def is_idle(self) -> bool:
        return self.done.is_set()

    def wait(self) -> None:
        self.done.wait(SOON_S)


def lane_of(stream: SlowStream) -> Lane:
    return Lane(cast(Stream, stream))


class LaunchedOnCpu(CpuEncoder):
    """As on a GPU two users at most are encoded together; here it happens when that is read."""

    device = "cuda"
    largest = 2

    def launch(self, history: HistoryBatch, *, for_comments: bool, with_states: bool) -> Self:
        assert len(history.video_BI) <= self.largest
        self.has_states = for_comments or with_states
        self._with_states = with_states
        return self

    def read(self, history: HistoryBatch) -> Encoding:
        return self.encode(history, with_states=self._with_states)


class HeadBehind(CommentHead):
    """Reads what was launched before, when that is there."""

    def launch_behind(self, shape: LaunchedOnCpu, look: CommentLook, stream: Stream) -> Read:
        assert shape.has_states

        def read(history: HistoryBatch) -> tuple[FloatArray, FloatArray]:
            encoding = shape.encode(history, with_states=True)
            return self.read(history, encoding, look.users, look.target_AX)

        return read
