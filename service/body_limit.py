"""Refuses bodies above a size, also those that don't tell it beforehand."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError


class BodyLimit:
    """ASGI middleware within `RequestContext`; counts the bytes of a body as they come.

    Not those of a length that was announced: HTTP's own reading ends there.

    Raises:
        BodyTooLargeError: At once where Content-Length tells it, else while the body is read.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go on, with a `receive` that counts where nobody knows how long the body is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = scope["state"]["headers"]
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and b"transfer-encoding" not in headers:
            if int(announced) > self._max_bytes:
                raise self._refusal()
            await self._app(scope, receive, send)
            return
        received_bytes = 0

        async def receive_counting() -> Message:
            nonlocal received_bytes
            message = await receive()
            if message["type"] == "http.request":
                received_bytes += len(message.get("body", b""))
                if received_bytes > self._max_bytes:
                    raise self._refusal()
            return message

        await self._app(scope, receive_counting, send)

    def _refusal(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"a body may have at most {self._max_bytes} bytes")
