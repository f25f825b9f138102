"""Sends events in the background, in batches, at least once, whatever happens in between."""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

import msgspec

from lsvcr_client.client import Client
from lsvcr_client.errors import ClientError, ProblemError
from lsvcr_client.requests import Event, EventType, SendEvents
from lsvcr_client.spool import Spool

TOO_LARGE = 413
MAX_PAUSE_S = 30.0

logger = logging.getLogger(__name__)


def new_event(
    user_id: str,
    type: EventType,
    *,
    video_id: str | None = None,
    comment_id: str | None = None,
    recommendation_id: str | None = None,
    watch_time_ms: int | None = None,
    value: float | None = None,
) -> Event:
    """Make an event of this moment, with an id of its own."""
    return Event(
        event_id=uuid4().hex,
        user_id=user_id,
        type=type,
        timestamp=time.time_ns() // 1_000_000,
        video_id=video_id,
        comment_id=comment_id,
        recommendation_id=recommendation_id,
        watch_time_ms=watch_time_ms,
        value=value,
    )


def log_rejected(event: Event, detail: str) -> None:
    """What becomes of a rejected event by default: a line in the log."""
    logger.error("the service rejected event %s: %s", event.event_id, detail)


class EventSender:
    """Keeps events in a file until the service has them.

    `add` returns once the event is on the disk: it survives a crash of this process and of the
    machine, and the next `EventSender` on the same file sends it. An event may arrive twice, which
    its `event_id` makes harmless. While the service is away events wait, and are tried again after
    growing pauses of at most 30 s; only what the service rejects for good is given up.

    Args:
        client: Sends the batches.
        spool: The file; one a host, or one a process, as you like.
        batch_events: Sent at once, at most 1,000.
        linger_s: How long a batch that isn't full waits for more.
        max_waiting: `add` refuses more than these with SpoolError.
        on_rejected: Called for each event that the service refuses, from the sending thread.
    """

    def __init__(
        self,
        client: Client,
        spool: Path,
        *,
        batch_events: int = 500,
        linger_s: float = 0.2,
        max_waiting: int = 1_000_000,
        on_rejected: Callable[[Event, str], None] = log_rejected,
    ) -> None:
        self._client = client
        self._spool = Spool(spool, max_events=max_waiting)
        self._batch_events = batch_events
        self._linger_s = linger_s
        self._on_rejected = on_rejected
        self._changed = threading.Condition()
        self._is_closing = False
        self._hurried = 0  # how many wait in `flush`
        self._thread = threading.Thread(target=self._run, name="event-sender", daemon=True)
        self._thread.start()

    def add(self, *events: Event) -> None:
        """Take events, all or none; takes as long as the disk needs, some milliseconds.

        Raises:
            SpoolError: If they can't be kept; then they are yours.
        """
        self._spool.append([msgspec.json.encode(event) for event in events])
        with self._changed:
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Events that the service hasn't confirmed yet."""
        return len(self._spool)

    def flush(self, timeout_s: float) -> bool:
        """Send what waits, without lingering; whether all of it arrived in time."""
        with self._changed:
            self._hurried += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self.waiting == 0, timeout_s)
            finally:
                self._hurried -= 1

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what waits if that takes no longer than `timeout_s`; the rest stays in the file."""
        if self._is_closing:
            return
        self.flush(timeout_s)
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        failures = 0
        while not self._is_closing:
            try:
                self._wait_for_batch()
                if not self._is_closing:
                    self._send_batch()
                failures = 0
            except Exception as error:  # whatever it is, also in `on_rejected`: go on
                failures += 1
                pause_s = random.uniform(0.5, 1) * min(MAX_PAUSE_S, 0.1 * 2 ** min(failures, 9))
                unexpected = None if isinstance(error, ClientError) else error
                logger.warning("events wait %.1f s more: %s", pause_s, error, exc_info=unexpected)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closing, pause_s)

    def _wait_for_batch(self) -> None:
        """Wait for events, and then until they are a full batch or old enough."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing or self.waiting > 0)
            self._changed.wait_for(
                lambda: self._is_closing or self._hurried or self.waiting >= self._batch_events,
                self._linger_s,
            )

    def _send_batch(self) -> None:
        batch = self._spool.head(self._batch_events)
        events = [msgspec.json.decode(content, type=Event) for _, content in batch]
        try:
            answer = self._client.send(SendEvents(events))
        except ProblemError as error:
            if error.status != TOO_LARGE:
                raise
            self._halve(events, error)
            return
        for rejected in answer.rejected:
            self._on_rejected(events[rejected.index], rejected.detail)
        self._forget([number for number, _ in batch])

    def _halve(self, events: Sequence[Event], error: ProblemError) -> None:
        """Send less at once from now on: the service takes no body as large as this one."""
        if len(events) == 1:
            self._on_rejected(events[0], str(error))
            self._forget([number for number, _ in self._spool.head(1)])
        self._batch_events = max(1, len(events) // 2)

    def _forget(self, numbers: Sequence[int]) -> None:
        self._spool.drop(numbers)
        with self._changed:
            self._changed.notify_all()
