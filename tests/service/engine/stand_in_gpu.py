"""Stands in for a GPU where there is none: a stream that is told when it is idle, an encoder."""

import threading
from typing import Self, cast

from lsvcr.history import HistoryBatch
from service.engine.cuda_stream import Lane, Stream
from service.engine.encoder_session import CpuEncoder, Encoding

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
    preference = 0

    def launch(self, history: HistoryBatch, *, with_comments: bool) -> Self:
        assert len(history.video_BI) <= self.largest
        self._with_comments = with_comments
        return self

    def read(self, history: HistoryBatch) -> Encoding:
        return self.encode(history, with_comments=self._with_comments)
