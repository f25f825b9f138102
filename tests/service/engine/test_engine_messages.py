"""Messages between front-ends and an engine process leave and arrive whole."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from service.engine.engine_messages import Beat, Frames, Question, frame
from service.errors import EngineLostError


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        yield here, there


def test_what_is_sent_in_one_turn_leaves_together(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    here, there = ends

    async def main() -> None:
        loop = asyncio.get_running_loop()
        _, sending = await loop.create_connection(
            lambda: Frames(Question, lambda *_: None, lambda _: None), sock=here
        )
        sending.send(Beat(1))
        sending.send(Beat(2))
        with pytest.raises(BlockingIOError):
            there.recv(1)
        await asyncio.sleep(0)
        assert there.recv(999) == frame(Beat(1)) + frame(Beat(2))
        sending.send(Beat(3))
        sending.close()  # not before what was sent has left
        assert there.recv(999) == frame(Beat(3))
        await asyncio.sleep(0)
        with pytest.raises(EngineLostError):
            sending.send(Beat(4))

    asyncio.run(main())
