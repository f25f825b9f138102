"""Messages between front-ends and an engine process leave and arrive whole."""

import asyncio
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.engine_messages import Beat, Encode, Frames, Question, frame
from service.engine.first_look import CommentLook, FirstLook
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


def look(users: int) -> FirstLook:
    """Every second one is about comments, too."""
    comments = None
    if users % 2:
        target_AX = np.full((users, 5), users, np.float32)
        comments = CommentLook([*range(users)], target_AX, [2] * users, target_AX[:, :0])
    return FirstLook([1] * users, [0.0] * users, comments=comments)


def about(question: Encode) -> list[CommentLook]:
    return [] if question.look.comments is None else [question.look.comments]


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(1, 120), max_size=40))
def test_messages_arrive_whole_however_they_were_cut(users: list[int], cuts: list[int]) -> None:
    sent = [
        Encode(number, "v", 0.5, look(few), np.arange(few * 12).reshape(few, 3, 4))
        for number, few in enumerate(users)
    ]
    stream = b"".join(map(frame, sent))
    received: list[Encode] = []
    frames = Frames(Question, lambda _, message: received.append(message), lambda _: None)
    for cut in [*cuts, len(stream)]:
        frames.data_received(stream[:cut])
        stream = stream[cut:]
    assert [one.number for one in received] == list(range(len(users)))
    for one, original in zip(received, sent, strict=True):
        assert (one.look.counts, one.look.weights) == (original.look.counts, original.look.weights)
        for comments, wanted in zip(about(one), about(original), strict=True):
            assert (comments.users, comments.counts) == (wanted.users, wanted.counts)
            np.testing.assert_array_equal(comments.target_AX, wanted.target_AX)
            np.testing.assert_array_equal(comments.weight_AF, wanted.weight_AF)
        np.testing.assert_array_equal(one.history_BSF, original.history_BSF)
