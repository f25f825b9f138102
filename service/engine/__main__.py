"""`python -m service.engine`: one engine process, started by `service.engine_process`.

It begins when a line comes in, having imported everything before. It ends when it is told to, or
when whoever started it has ended: its standard input closes then.
"""

import asyncio
import contextlib
import gc
import signal
import sys

import uvloop

from service.engine.engine import InlineEngine
from service.engine.engine_server import FRAMES_TOGETHER, EngineServer
from service.log_output import configure_logging
from service.settings import Settings, read_settings
from service.short_turns import take_short_turns

DRAIN_S = 10


async def serve(settings: Settings) -> int:
    """Answer front-ends until told to stop; the exit status is 1 where it can't go on."""
    [socket] = settings.engine_sockets
    together = FRAMES_TOGETHER * settings.max_batch
    engine = InlineEngine(settings.registry, device=settings.device, max_batch=together)
    server = EngineServer(engine)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_reader(sys.stdin.fileno(), stopping.set)
    listening = await server.listen(socket)
    waiting = [asyncio.create_task(event.wait()) for event in (stopping, server.has_broken)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:  # a task that nobody waits for any more must not be lost while it goes on
        task.cancel()
    if server.has_broken.is_set():
        return 1
    listening.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.drain(), DRAIN_S)
    return 0


if __name__ == "__main__":
    configured = read_settings([])
    configure_logging(configured.log_level)
    take_short_turns()
    gc.collect()
    gc.freeze()  # modules live as long as the process: to look at them at each reload takes 40 ms
    if sys.stdin.readline():
        sys.exit(uvloop.run(serve(configured)))
