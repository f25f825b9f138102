"""Requests that ask for another protocol, on a real server and plain sockets."""

import asyncio
import contextlib

import pytest
from asgi_server import serving
from starlette.types import Receive, Scope, Send

from service.ignored_upgrades import IgnoredUpgradesProtocol

UPGRADES = ["Upgrade: h2c", "UPGRADE : websocket", "upgrade:foo\r\nUpgrade: h2c"]
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the method, the body, and whether a header stayed."""
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    kept = dict(scope["headers"]).get(b"upgrade-insecure-requests", b"-")
    content = scope["method"].encode() + b" " + body + message.get("body", b"") + b" " + kept
    length = str(len(content)).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    )
    await send({"type": "http.response.body", "body": content})


def head(upgrade: str, body: bytes) -> bytes:
    lines = f"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n{upgrade}\r\n"
    return lines.encode() + b"Content-Length: %d\r\n\r\n" % len(body)


def answers_to(*packets: bytes) -> list[bytes]:
    """Status and body of all that comes back, until nothing more does for a while."""

    async def ask() -> bytes:
        async with serving(echo, IgnoredUpgradesProtocol, lifespan="off") as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            read = b""
            with contextlib.suppress(ConnectionError):  # it may have been ended
                for packet in packets:
                    writer.write(packet)
                    await writer.drain()
                    await asyncio.sleep(0.05)
            with contextlib.suppress(TimeoutError, ConnectionError):
                while piece := await asyncio.wait_for(reader.read(4096), 0.5):
                    read += piece
            writer.close()
            return read

    answers = asyncio.run(ask()).split(b"HTTP/1.1 ")[1:]
    return [one[:3] + b" " + one.split(b"\r\n\r\n", 1)[1] for one in answers]


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_the_request_is_answered_as_without(upgrade: str) -> None:
    assert answers_to(head(upgrade, b"{}") + b"{}") == [b"200 POST {} -"]


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_a_body_that_comes_later_is_a_body_and_no_request(upgrade: str) -> None:
    assert answers_to(head(upgrade, HIDDEN), HIDDEN) == [b"200 POST " + HIDDEN + b" -"]


def test_what_a_body_says_is_left_alone() -> None:
    body = b"\r\nUpgrade: h2c\r\n\r\n"
    plain = head("Upgrade-Insecure-Requests: 1", body)
    assert answers_to(plain + body) == [b"200 POST " + body + b" 1"]
    assert answers_to(plain, body) == [b"200 POST " + body + b" 1"]
    asking = head("Upgrade: h2c", body) + body
    assert answers_to(asking, asking) == 2 * [b"200 POST " + body + b" -"]


def test_a_head_in_pieces_is_refused_and_nothing_behind_it_read() -> None:
    asking = head("Upgrade: h2c", HIDDEN)
    found = answers_to(asking[:60], asking[60:], HIDDEN)
    assert [one[:3] for one in found] == [b"400"]
