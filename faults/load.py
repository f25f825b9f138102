"""An open-loop load: requests at fixed times, whatever becomes of those before.

It asks as a balancer would: in turn those replicas that said they are ready, and another one once
if a connection breaks. Latency counts from the time a request was due. Events that are not
accepted are sent again, with the same id, as the interface says.
"""

import asyncio
import itertools
import json
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx2

from faults.replica import ADMIN_KEY

USERS = 300
DEADLINE_MS = 1000
LOOK_S = 0.2
HURRYING = 8


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one request.

    Attributes:
        due_s: `time.monotonic()` when it should have been sent.
        status: 0 where no replica answered.
        degraded: What the answer lacked.
        is_retried: Whether a connection broke and another replica was asked.
    """

    due_s: float
    seconds: float
    status: int
    problem: str
    degraded: tuple[str, ...]
    is_retried: bool


@dataclass
class Record:
    """All that was seen."""

    asked: list[Answered] = field(default_factory=list)
    written: list[Answered] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    readiness: list[tuple[float, int, int, tuple[str, ...]]] = field(default_factory=list)


class Load:
    """Runs in a thread of its own, between `start` and `stop`.

    Args:
        ports: Of all replicas, which may come and go, or of a balancer before them.
        asks_per_s, events_per_s: Recommendations and single events.
        tag: Begins all event ids.
        users_stay_s: After so long other users come in place of these.
        at_once: Requests under way, at most; others wait, and their time counts.
    """

    def __init__(
        self,
        ports: Sequence[int],
        *,
        asks_per_s: float,
        events_per_s: float,
        tag: str,
        users_stay_s: float = math.inf,
        at_once: int = 400,
    ) -> None:
        self._ports = list(ports)
        self._asks_per_s = asks_per_s
        self._events_per_s = events_per_s
        self._tag = tag
        self._users_stay_s = users_stay_s
        self._at_once = at_once
        self._room = asyncio.Semaphore(at_once)
        self._ready = set(range(len(ports)))
        self._turn = itertools.count()
        self._is_ending = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self.record = Record()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def also_ask(self, port: int) -> None:
        """Take one more replica into the turn, once it is ready."""
        self._ports.append(port)

    def stop(self) -> Record:
        """Send nothing new, wait for what is under way, and tell what was seen."""
        self._is_ending = True
        self._thread.join(60)
        return self.record

    def measure_capacity(self, seconds: float, *, events_share: float) -> float:
        """Requests answered a second where each of a few is followed by another at once."""
        return asyncio.run(self._hurry(seconds, events_share)) / seconds

    async def _hurry(self, seconds: float, events_share: float) -> int:
        until_s = time.monotonic() + seconds
        numbers = itertools.count()

        async def ask(client: httpx2.AsyncClient) -> None:
            while (now_s := time.monotonic()) < until_s:
                number = next(numbers)
                is_event = number % round(1 / events_share) == 0
                await (self._write if is_event else self._ask)(client, number, now_s)

        async with self._client() as client:
            await asyncio.gather(*(ask(client) for _ in range(HURRYING)))
        return next(numbers)

    def _client(self) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=self._at_once)
        headers = {"Authorization": f"Bearer {ADMIN_KEY}", "X-Deadline-Ms": str(DEADLINE_MS)}
        return httpx2.AsyncClient(limits=limits, headers=headers, timeout=10)

    async def _main(self) -> None:
        async with (
            self._client() as client,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._look(client))
            group.create_task(self._at_rate(self._asks_per_s, self._ask, client, group))
            group.create_task(self._at_rate(self._events_per_s, self._write, client, group))

    async def _at_rate(self, per_s, send, client, group) -> None:  # type: ignore[no-untyped-def]
        began_s = time.monotonic()
        for number in itertools.count():
            due_s = began_s + number / per_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if self._is_ending:
                return
            group.create_task(send(client, number, due_s))

    async def _look(self, client: httpx2.AsyncClient) -> None:
        """Health checks, as a balancer's."""
        while not self._is_ending:
            await asyncio.gather(*(self._look_at(client, n) for n in range(len(self._ports))))
            await asyncio.sleep(LOOK_S)

    async def _look_at(self, client: httpx2.AsyncClient, number: int) -> None:
        url = f"http://127.0.0.1:{self._ports[number]}/health/ready"
        status, degraded = 0, ()
        try:
            response = await client.get(url, timeout=1)
            status = response.status_code
            degraded = tuple(response.json().get("degraded", ()))
        except (httpx2.HTTPError, ValueError):
            pass
        (self._ready.add if status == 200 else self._ready.discard)(number)
        self.record.readiness.append((time.monotonic(), number, status, degraded))

    async def _ask(self, client: httpx2.AsyncClient, number: int, due_s: float) -> None:
        body = {"user_id": self._user(number, due_s), "k": 10}
        self.record.asked.append(await self._post(client, "/recommend/videos", body, due_s))

    async def _write(self, client: httpx2.AsyncClient, number: int, due_s: float) -> None:
        event_id = f"{self._tag}-{number}"
        event = {
            "event_id": event_id,
            "user_id": self._user(number, due_s),
            "type": "video_watch",
            "video_id": f"v{number % 50 + 1}",
            "timestamp": int(time.time() * 1000),
        }
        self.record.sent.add(event_id)
        until_s = due_s + 20
        while time.monotonic() < until_s:
            answered = await self._post(client, "/events", {"events": [event]}, time.monotonic())
            self.record.written.append(answered)
            if answered.status == 200:
                self.record.accepted.add(event_id)
                return
            await asyncio.sleep(0.5)

    def _user(self, number: int, at_s: float) -> str:
        return f"user-{number % USERS}-{int(at_s / self._users_stay_s)}"

    async def _post(
        self, client: httpx2.AsyncClient, path: str, body: object, due_s: float
    ) -> Answered:
        content, is_retried, number = json.dumps(body), False, -1
        for _ in range(2):
            number = self._choose(but=number)
            url = f"http://127.0.0.1:{self._ports[number]}{path}"
            try:
                async with self._room:  # the client itself gets slow where many wait in it
                    response = await client.post(url, content=content)
            except httpx2.HTTPError:
                is_retried = True
                continue
            try:
                answer = response.json()
            except ValueError:  # a balancer's own words
                answer = {"type": response.text[:80]}
            return Answered(
                due_s,
                time.monotonic() - due_s,
                response.status_code,
                str(answer.get("type", "")).rsplit(":", 1)[-1],
                tuple(answer.get("degraded", ())),
                is_retried,
            )
        return Answered(due_s, time.monotonic() - due_s, 0, "no answer", (), True)

    def _choose(self, *, but: int) -> int:
        """The next of the ready replicas, another one than that which just failed."""
        ready = sorted(self._ready - {but}) or [0]
        return ready[next(self._turn) % len(ready)]
