"""Whoever asks for another protocol is answered as if they had not (RFC 9110, section 7.8).

Some clients offer HTTP/2 with their first request, its body included. The parser takes whatever
follows such a head for the other protocol: the body would be lost, or, where it comes in a packet
of its own, be read as the next request.
"""

import asyncio
import re
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.joined_writes import JoinedWritesProtocol

_UPGRADE = re.compile(rb"(?i)\nupgrade[ \t]*:[^\n]*(?=\n)")
"""Begins with what is searched for fast: an eighth of the time that looking behind takes."""


class _Answered:
    response_complete = True
    message_event = asyncio.Event()
    """Set when a connection ends; nobody waits for it."""


ANSWERED = _Answered()
"""Stands for a request where uvicorn keeps the last: it has its answer, so skip its body."""


class IgnoredUpgradesProtocol(JoinedWritesProtocol):
    """uvicorn's protocol, without the header that asks for another one.

    A head that comes in pieces keeps it, which no client does: that is refused.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_between = True

    def data_received(self, data: bytes) -> None:
        """Take out the header where a request begins."""
        if self._is_between:
            end = data.find(b"\r\n\r\n") + 2
            if end > 1 and _UPGRADE.search(data, 0, end):
                data = _UPGRADE.sub(b"", data[:end]) + data[end:]
        super().data_received(data)

    def on_message_begin(self) -> None:
        """What comes now belongs to a request."""
        self._is_between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Have a request answered, or end the connection."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            return
        self.send_400_response("no other protocol is spoken here")
        if self.cycle is None or self.cycle.response_complete:
            self.cycle = cast("RequestResponseCycle", ANSWERED)

    def on_message_complete(self) -> None:
        """What comes next begins another request."""
        self._is_between = True
        super().on_message_complete()
