"""An ASGI app behind a real server, in this event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal

import uvicorn


@contextlib.asynccontextmanager
async def serving(
    app: Any, protocol: type[asyncio.Protocol], *, lifespan: Literal["on", "off"]
) -> AsyncIterator[int]:
    """Its port."""
    config = uvicorn.Config(app, port=0, http=protocol, log_config=None, lifespan=lifespan)
    server = uvicorn.Server(config)
    with contextlib.closing(config.bind_socket()) as listening:
        listening.listen()
        answering = asyncio.create_task(server.serve([listening]))
        yield listening.getsockname()[1]
        server.should_exit = True
        await answering
