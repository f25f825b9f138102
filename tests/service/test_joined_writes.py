"""Writes that are joined, on a transport that remembers them and behind a real server."""

import asyncio
import http.client
from typing import Any

from asgi_server import serving

from service.joined_writes import JoinedWrites, JoinedWritesProtocol


class Remembering(asyncio.Transport):
    """Where a connection would be."""

    def __init__(self) -> None:
        super().__init__({"peername": "somebody"})
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closing()
        self.written.append(bytes(data))

    def close(self) -> None:
        self.written.append(b"closed")

    def is_closing(self) -> bool:
        return b"closed" in self.written


def test_head_and_body_leave_in_one_write() -> None:
    async def scenario() -> None:
        below = Remembering()
        joined = JoinedWrites(below)
        joined.write(b"head")
        assert below.written == []
        joined.write(b"body")
        assert below.written == [b"headbody"]
        await asyncio.sleep(0)
        assert below.written == [b"headbody"]
        assert joined.get_extra_info("peername") == "somebody"

    asyncio.run(scenario())


def test_a_piece_that_nothing_follows_leaves_at_the_turns_end() -> None:
    async def scenario() -> None:
        below = Remembering()
        joined = JoinedWrites(below)
        joined.write(b"HTTP/1.1 100 Continue")
        await asyncio.sleep(0)
        assert below.written == [b"HTTP/1.1 100 Continue"]
        joined.write(b"head")
        joined.write(b"body")
        assert below.written[1:] == [b"headbody"]

    asyncio.run(scenario())


def test_what_is_held_is_written_before_the_end() -> None:
    async def scenario() -> None:
        below = Remembering()
        joined = JoinedWrites(below)
        joined.write(b"last")
        joined.close()
        await asyncio.sleep(0)
        assert below.written == [b"last", b"closed"]
        assert joined.is_closing()

    asyncio.run(scenario())


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer in three pieces, the last one in a later turn, and large if asked to."""
    size = int(scope["path"][1:])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a" * size, "more_body": True})
    await send({"type": "http.response.body", "body": b"b" * size, "more_body": True})
    await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"c" * size})


def ask(port: int) -> list[bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    answers = []
    for path, headers in (("/3", {}), ("/1000000", {}), ("/2", {"Connection": "close"})):
        connection.request("GET", path, headers=headers)
        answers.append(connection.getresponse().read())
    connection.close()
    return answers


def test_answers_arrive_whole_and_in_order() -> None:
    async def scenario() -> None:
        async with serving(app, JoinedWritesProtocol, lifespan="off") as port:
            answers = await asyncio.to_thread(ask, port)
        assert answers == [
            b"aaabbbccc",
            b"".join(x * 1_000_000 for x in (b"a", b"b", b"c")),
            b"aabbcc",
        ]

    asyncio.run(scenario())
