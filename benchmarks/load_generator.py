"""Load from processes of its own: an open loop whose arrivals don't wait, or a closed one.

`offer` starts some generators, each with its share of the rate and its own Poisson schedule, and
joins what they saw. A request's latency counts from when it was due, so that a generator that
falls behind, or waits for a free connection, makes the figures worse and never better.
"""

import argparse
import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import uvloop
from numpy.typing import NDArray

REQUEST = (
    b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)
EVENTS_A_CALL = 100
DRAIN_S = 10.0
MAX_CONNECTIONS = 4096
"""Of one generator: where none is free an arrival opens another one."""


@dataclass(frozen=True)
class Load:
    """What a target is asked.

    Attributes:
        bodies: Which of `BODIES`.
        per_s: Arrivals a second in all; 0 asks as soon as a connection is free.
        connections: Of all generators.
        items: Users (and videos, for events) to choose from.
        videos: Of the catalogue, under which comments are asked for.
    """

    path: str
    bodies: str
    per_s: float
    seconds: float
    connections: int = 64
    items: int = 2_000
    videos: int = 2_000
    generators: int = 1
    seed: int = 1


@dataclass(frozen=True)
class Seen:
    """What became of all requests of one run; status 0 is a connection that failed.

    Attributes:
        behind_ms: The median of how late requests were sent.
        degraded: Answers with status 200 for which something was missing.
        cpu_s: Processor time that the generators took while they sent.
    """

    load: Load
    latency_ms_N: NDArray[np.float64]
    status_N: NDArray[np.int64]
    behind_ms: float
    degraded: int
    cpu_s: float

    @property
    def goodput_per_s(self) -> float:
        """Whole answers a second: status 200, and nothing was missing while answering."""
        return (float(np.sum(self.status_N == 200)) - self.degraded) / self.load.seconds

    def describe(self) -> dict[str, object]:
        """Offered and answered requests a second, and latencies by status."""
        row: dict[str, object] = {
            "offered_per_s": round(len(self.status_N) / self.load.seconds),
            "goodput_per_s": round(self.goodput_per_s),
            "degraded": self.degraded,
            "behind_ms": round(self.behind_ms, 2),
        }
        for status in np.unique(self.status_N).tolist():
            latency_ms = self.latency_ms_N[self.status_N == status]
            cuts = np.percentile(latency_ms, [50, 99, 99.9])
            row[f"status_{status}"] = {
                "count": len(latency_ms),
                **dict(zip(("p50_ms", "p99_ms", "p999_ms"), cuts.round(2).tolist(), strict=True)),
            }
        return row

    def in_time_per_s(self, within_ms: float) -> float:
        """Answers a second with status 200, so long after they were due at most."""
        is_good_N = (self.status_N == 200) & (self.latency_ms_N <= within_ms)
        return float(is_good_N.sum()) / self.load.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency of answered requests."""
        return float(np.percentile(self.latency_ms_N[self.status_N == 200], percent))


def offer(port: int, load: Load) -> Seen:
    """Run generators until they are done and join what they saw."""
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for number in range(load.generators):
            command = [sys.executable, "-m", "benchmarks.load_generator", *_arguments(load, number)]
            command += ["--port", str(port), "--out", f"{folder}/{number}.npz"]
            processes.append(subprocess.Popen(command))
        if any(process.wait(load.seconds + DRAIN_S + 60) for process in processes):
            raise RuntimeError("a load generator failed")
        seen = [np.load(path) for path in sorted(Path(folder).iterdir())]
    return Seen(
        load,
        *(np.concatenate([part[name] for part in seen]) for name in ("latency", "status")),
        behind_ms=max(float(part["behind"]) for part in seen),
        degraded=sum(int(part["degraded"]) for part in seen),
        cpu_s=sum(float(part["cpu_s"]) for part in seen),
    )


def ask_videos(load: Load, random: np.random.Generator) -> Iterator[bytes]:
    """Random users ask for 20 videos."""
    users = random.integers(0, load.items, 65_536).tolist()
    return (b'{"user_id": "user-%d", "k": 20}' % user for user in itertools.cycle(users))


def ask_listed(load: Load, random: np.random.Generator) -> Iterator[bytes]:
    """The same in a list of one each, as BentoML's batches want it."""
    return (b"[%b]" % body for body in ask_videos(load, random))


def ask_comments(load: Load, random: np.random.Generator) -> Iterator[bytes]:
    """Random users ask for 20 comments of all."""
    users = random.integers(0, load.items, 65_536).tolist()
    return (b'{"user_id": "user-%d", "k": 20}' % user for user in itertools.cycle(users))


def ask_comments_under(load: Load, random: np.random.Generator) -> Iterator[bytes]:
    """Random users ask for 20 comments under random videos, which mostly have fewer."""
    users = random.integers(0, load.items, 65_536).tolist()
    videos = random.integers(1, load.videos + 1, 65_536).tolist()
    digits = len(str(load.videos))  # as an invented bundle's ids have
    return (
        b'{"user_id": "user-%d", "video_id": "video-%0*d", "k": 20}' % (user, digits, video)
        for user, video in itertools.cycle(zip(users, videos, strict=True))
    )


def send_events(load: Load, random: np.random.Generator) -> Iterator[bytes]:
    """New events of random users on random videos, as they happen."""
    names = itertools.count(int(random.integers(0, 2**62)))
    while True:
        now_ms = time.time_ns() // 1_000_000
        events = b",".join(
            b'{"event_id": "e%d", "user_id": "user-%d", "type": "video_watch", '
            b'"video_id": "video-%d", "timestamp": %d}' % (next(names), user, user, now_ms)
            for user in random.integers(0, load.items, EVENTS_A_CALL).tolist()
        )
        yield b'{"events": [%b]}' % events


BODIES: Mapping[str, Callable[[Load, np.random.Generator], Iterator[bytes]]] = {
    "videos": ask_videos,
    "comments": ask_comments,
    "comments-under": ask_comments_under,
    "listed": ask_listed,
    "events": send_events,
}


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self, generator: "_Generator") -> None:
        self._generator = generator
        self._buffer = b""
        self._end = 0
        self._status = 0
        self.due_s: float | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # a stream's

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._end:
            body_at = self._buffer.find(b"\r\n\r\n") + 4
            if body_at < 4:
                return
            head = self._buffer[:body_at].lower()
            self._status = int(head[9:12])
            length_at = head.find(b"content-length: ") + 16
            length = int(head[length_at : head.index(b"\r", length_at)]) if length_at > 15 else 0
            self._end = body_at + length
        if len(self._buffer) >= self._end:
            self._generator.degraded += b'"degraded":["' in self._buffer
            self._buffer, self._end = b"", 0
            self._generator.finish(self, self._status)

    def connection_lost(self, error: Exception | None) -> None:
        self._generator.lose(self)


class _Generator:
    """Sends requests when they are due, on whichever connection is free."""

    def __init__(self, load: Load, port: int) -> None:
        random = np.random.default_rng(load.seed)
        self._load, self._port = load, port
        self._path = load.path.encode()
        self._bodies = BODIES[load.bodies](load, random)
        arrivals = int(load.per_s * load.seconds)
        due_N = np.cumsum(random.exponential(1 / load.per_s, 2 * arrivals + 99)) if arrivals else []
        self._due = [due_s for due_s in due_N if due_s < load.seconds]
        self._idle: deque[_Connection] = deque()
        self._late: deque[float] = deque()
        self._under_way = 0
        self._connections = 0
        self.degraded = 0
        self._behind_ms: list[float] = []
        self._cpu_s = 0.0
        self._seen: list[tuple[float, int]] = []

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        for _ in range(self._load.connections):
            await self._connect()
        self._start_s = time.perf_counter()
        started_cpu_s = time.process_time()
        if self._load.per_s:
            await self._send_when_due()
        else:
            while self._idle:
                self._send(self._idle.popleft(), self._passed_s())
            await asyncio.sleep(self._load.seconds)
        self._cpu_s = time.process_time() - started_cpu_s
        until_s = self._passed_s() + DRAIN_S
        while (self._under_way or self._late) and self._passed_s() < until_s:
            await asyncio.sleep(0.01)
        lost = self._under_way + len(self._late)
        self._seen += [(DRAIN_S * 1000, 0)] * lost

    def save(self, path: Path) -> None:
        latency_ms, status = zip(*self._seen, strict=True)
        behind = np.median(self._behind_ms)
        np.savez(
            path,
            latency=latency_ms,
            status=status,
            behind=behind,
            degraded=self.degraded,
            cpu_s=self._cpu_s,
        )

    def finish(self, connection: _Connection, status: int) -> None:
        now_s = self._passed_s()
        assert connection.due_s is not None
        self._seen.append(((now_s - connection.due_s) * 1000, status))
        connection.due_s = None
        self._under_way -= 1
        if self._late:
            self._send(connection, self._late.popleft())
        elif not self._load.per_s and now_s < self._load.seconds:
            self._send(connection, now_s)
        else:
            self._idle.append(connection)

    def lose(self, connection: _Connection) -> None:
        if connection.due_s is not None:
            self._seen.append(((self._passed_s() - connection.due_s) * 1000, 0))
            self._under_way -= 1
        elif connection in self._idle:
            self._idle.remove(connection)
        self._connections -= 1
        self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        """Open one connection more; none beyond some thousands, or where nobody listens."""
        if self._connections >= MAX_CONNECTIONS:
            return
        self._connections += 1
        try:
            _, connection = await self._loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            self._connections -= 1
            return
        if self._late:
            self._send(connection, self._late.popleft())
        else:
            self._idle.append(connection)

    async def _send_when_due(self) -> None:
        position = 0
        while position < len(self._due):
            passed_s = self._passed_s()
            while position < len(self._due) and self._due[position] <= passed_s:
                if self._idle:
                    self._send(self._idle.popleft(), self._due[position])
                else:
                    self._late.append(self._due[position])
                    self._loop.create_task(self._connect())
                position += 1
            await asyncio.sleep(0.001)

    def _send(self, connection: _Connection, due_s: float) -> None:
        body = next(self._bodies)
        connection.due_s = due_s
        self._under_way += 1
        connection.transport.write(REQUEST % (self._path, len(body), body))
        self._behind_ms.append((self._passed_s() - due_s) * 1000)

    def _passed_s(self) -> float:
        return time.perf_counter() - self._start_s


def _arguments(load: Load, number: int) -> Sequence[str]:
    """One generator's share of a load, as its command line."""
    share = {
        "per_s": load.per_s / load.generators,
        "connections": max(1, load.connections // load.generators),
        "seed": load.seed * 1000 + number,
    }
    fields = {**asdict(load), **share, "generators": 1}
    return [part for name, value in fields.items() for part in (f"--{name}", str(value))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in get_type_hints(Load).items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    values = vars(parser.parse_args())
    port, out = values.pop("port"), values.pop("out")
    generator = _Generator(Load(**values), port)
    uvloop.run(generator.run())
    generator.save(out)


if __name__ == "__main__":
    main()
