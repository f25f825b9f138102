"""A gateway of a few bad moods: answers each request with the next line of a script."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """An answer; `status` None closes the connection without one."""

    status: int | None
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0


@dataclass
class Received:
    """A request, and when it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float


@contextlib.contextmanager
def scripted_server(replies: Sequence[Reply]) -> Iterator[tuple[str, list[Received]]]:
    """Its URL, and what it received so far; the last reply is repeated."""
    received: list[Received] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            received.append(Received(self.command, self.path, headers, body, time.monotonic()))
            reply = replies[min(len(received), len(replies)) - 1]
            stopped.wait(reply.after_s)
            if reply.status is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who has gone away wants no answer
                self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    stopped = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
