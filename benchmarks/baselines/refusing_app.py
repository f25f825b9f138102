"""Answers 503 to everything at once: what refusing costs where nothing else is done."""

from starlette.types import Receive, Scope, Send

BODY = b'{"title":"Too many requests are waiting","status":503}'
HEADERS = [(b"content-length", b"%d" % len(BODY)), (b"retry-after", b"1")]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI app without a framework."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    status = 200 if scope["path"] == "/health/ready" else 503
    await send({"type": "http.response.start", "status": status, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
