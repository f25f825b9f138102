"""The service as its operator runs it, filled with invented users; and a bare app to compare."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.invented_bundle import invent_events
from lsvcr.bundle import load_bundle

USERS = 2_000
START_S = 60
BARE_APP = """
from fastapi import FastAPI
from pydantic import BaseModel

class Body(BaseModel):
    user_id: str
    k: int = 20

class Item(BaseModel):
    video_id: str
    rank: int
    score: float
    title: str

class Answer(BaseModel):
    user_id: str
    items: list[Item]

app = FastAPI()

@app.post("/recommend/videos", response_model=Answer)
async def recommend(body: Body):
    items = [
        {"video_id": f"video-{n}", "rank": n, "score": 1 / n, "title": f"Title of video {n}"}
        for n in range(1, body.k + 1)
    ]
    return {"user_id": body.user_id, "items": items}

@app.get("/health/ready")
async def ready():
    return {}
"""


@contextlib.contextmanager
def running_service(
    registry: Path, store: Path, *, workers: int, arguments: Sequence[str] = ()
) -> Iterator[int]:
    """`python -m service` with an embedded store; yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "service", "--registry", str(registry)]
    command += ["--store-folder", str(store), "--port", str(port), "--workers", str(workers)]
    with _running([*command, "--device", "cpu", "--log-level", "warning", *arguments], port):
        yield port


@contextlib.contextmanager
def running_bare_app(folder: Path, *, workers: int) -> Iterator[int]:
    """FastAPI's default way to answer 20 items that nobody had to compute; yields its port."""
    port = free_port()
    (folder / "bare_app.py").write_text(BARE_APP)
    command = [sys.executable, "-m", "uvicorn", "bare_app:app", "--app-dir", str(folder)]
    command += ["--port", str(port), "--workers", str(workers), "--no-access-log"]
    with _running([*command, "--log-level", "warning"], port):
        yield port


def fill_store(port: int, registry: Path) -> None:
    """Send every invented user's events, in batches, as a client would."""
    current = json.loads((registry / "current.json").read_text())["version"]
    catalogue = load_bundle(registry / current).catalogue
    events = invent_events(catalogue, USERS)
    lines: list[dict[str, object]] = []
    for user, video, time_ms in zip(
        events.video_user_N, events.video_N, events.video_time_N, strict=True
    ):
        item = {"type": "video_watch", "video_id": catalogue.video_id[int(video)]}
        lines.append({**item, "user_id": f"user-{user}", "timestamp": int(time_ms)})
    for user, comment, time_ms in zip(
        events.comment_user_M, events.comment_M, events.comment_time_M, strict=True
    ):
        item = {"type": "comment_like", "comment_id": catalogue.comment_id[int(comment)]}
        lines.append({**item, "user_id": f"user-{user}", "timestamp": int(time_ms)})
    for number, line in enumerate(lines):
        line["event_id"] = f"event-{number}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for start in range(0, len(lines), 500):
        body = json.dumps({"events": lines[start : start + 500]})
        connection.request("POST", "/events", body)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the service refused events: {content!r}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextlib.contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        _wait_until_ready(port, process)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError):
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"nothing answers on port {port}")
