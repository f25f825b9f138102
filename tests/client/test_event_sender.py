"""Events reach the service at least once, whatever happens in between."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from live_service import running_service
from scripted_server import Reply, scripted_server

from benchmarks.service_process import free_port
from lsvcr_client import Client, EventSender, SpoolError, new_event
from lsvcr_client.requests import Event, ReadHistory, SendEvents
from lsvcr_client.spool import Spool

ALL_GOOD = Reply(200, b'{"accepted": 1, "duplicates": 0, "rejected": []}')


def watched(client: Client, user: str) -> list[str]:
    return [event.video_id for event in client.send(ReadHistory(user)).videos]


def watches(user: str, count: int) -> list[Event]:
    events = [new_event(user, "video_watch", video_id=f"v{n}") for n in range(1, count + 1)]
    return [
        msgspec.structs.replace(event, timestamp=event.timestamp + number)
        for number, event in enumerate(events)
    ]


def sent_events(body: bytes) -> list[str]:
    return [event.event_id for event in msgspec.json.decode(body, type=SendEvents).events]


def test_events_arrive_in_batches_and_the_file_empties(live: Client, tmp_path: Path) -> None:
    user = str(uuid4())
    with EventSender(live, tmp_path / "spool", batch_events=20) as sender:
        for event in watches(user, 50):
            sender.add(event)
        assert sender.flush(20)
        assert sender.waiting == 0
        assert sorted(watched(live, user)) == sorted(f"v{number}" for number in range(1, 51))
    assert len(Spool(tmp_path / "spool", max_events=1)) == 0


def test_full_batches_go_at_once_and_others_linger(tmp_path: Path) -> None:
    with (
        scripted_server([ALL_GOOD]) as (url, received),
        Client(url) as client,
        EventSender(client, tmp_path / "spool", batch_events=3, linger_s=3600) as sender,
    ):
        events = watches("u", 7)
        sender.add(*events)
        end_s = time.monotonic() + 20
        while sender.waiting > 1 and time.monotonic() < end_s:
            time.sleep(0.01)
        batches = [sent_events(one.body) for one in received]
        ids = [event.event_id for event in events]
        assert batches == [ids[0:3], ids[3:6]]
    assert sent_events(received[2].body) == ids[6:]  # at the end nothing lingers


def test_a_service_that_comes_back_gets_what_waited(tiny_master: Path, tmp_path: Path) -> None:
    port, user = free_port(), str(uuid4())
    with Client(f"http://127.0.0.1:{port}") as client:
        with EventSender(client, tmp_path / "spool") as sender:
            sender.add(*watches(user, 5))
            assert not sender.flush(0.5)
            sender.close(timeout_s=0)
        with (
            running_service(tiny_master, tmp_path, "--port", str(port)),
            EventSender(client, tmp_path / "spool") as sender,
        ):
            assert sender.flush(30)
            assert watched(client, user) == ["v1", "v2", "v3", "v4", "v5"]


def test_a_killed_process_leaves_its_events_to_the_next(live: Client, tmp_path: Path) -> None:
    user = str(uuid4())
    program = (
        "import os, sys, pathlib; from lsvcr_client import Client, EventSender, new_event\n"
        "sender = EventSender(Client('http://127.0.0.1:9'), pathlib.Path(sys.argv[1]))\n"
        "for number in range(1, 31):\n"
        "    sender.add(new_event(sys.argv[2], 'video_watch', video_id=f'v{number}'))\n"
        "os._exit(9)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "spool"), user]
    assert subprocess.run(command).returncode == 9
    with EventSender(live, tmp_path / "spool") as sender:
        assert sender.waiting == 30
        assert sender.flush(20)
    assert len(watched(live, user)) == 30


def test_an_answer_that_was_lost_makes_no_event_twice(live: Client, tmp_path: Path) -> None:
    user = str(uuid4())
    events = watches(user, 4)
    live.send(SendEvents(events))  # the service has them, but the sender never heard of it
    with EventSender(live, tmp_path / "spool") as sender:
        sender.add(*events)
        assert sender.flush(20)
    assert watched(live, user) == ["v1", "v2", "v3", "v4"]


def test_what_is_rejected_is_told_and_spoils_no_other(live: Client, tmp_path: Path) -> None:
    user = str(uuid4())
    bad = msgspec.structs.replace(new_event(user, "video_like", video_id="v1"), video_id=None)
    told: list[tuple[Event, str]] = []
    with EventSender(
        live, tmp_path / "spool", on_rejected=lambda *what: told.append(what)
    ) as sender:
        sender.add(bad, *watches(user, 2))
        assert sender.flush(20)
    assert told == [(bad, "video_like needs a video_id")]
    assert watched(live, user) == ["v1", "v2"]


def test_a_callback_that_fails_does_not_end_the_sending(live: Client, tmp_path: Path) -> None:
    user = str(uuid4())
    bad = msgspec.structs.replace(new_event(user, "video_like", video_id="v1"), video_id=None)
    failures = [RuntimeError("once"), RuntimeError("twice")]

    def fail(event: Event, detail: str) -> None:
        if failures:
            raise failures.pop()

    with EventSender(live, tmp_path / "spool", on_rejected=fail) as sender:
        sender.add(bad, *watches(user, 1))
        assert sender.flush(20)
    assert not failures
    assert watched(live, user) == ["v1"]


def test_a_busy_service_is_tried_until_it_takes_them(tmp_path: Path) -> None:
    busy = Reply(503, b"{}")
    with (
        scripted_server([busy] * 6 + [ALL_GOOD]) as (url, received),
        Client(url) as client,
        EventSender(client, tmp_path / "spool", linger_s=0) as sender,
    ):
        (event,) = watches("u", 1)
        sender.add(event)
        assert sender.flush(30)
    assert {tuple(sent_events(one.body)) for one in received} == {(event.event_id,)}
    assert len(received) == 7


def test_batches_that_are_too_large_are_halved(tmp_path: Path) -> None:
    told: list[str] = []
    replies = [Reply(413), Reply(413), Reply(413), ALL_GOOD]
    with (
        scripted_server(replies) as (url, received),
        Client(url) as client,
        EventSender(
            client,
            tmp_path / "spool",
            batch_events=4,
            linger_s=0,
            on_rejected=lambda event, _: told.append(event.event_id),
        ) as sender,
    ):
        events = watches("u", 4)
        sender.add(*events)
        assert sender.flush(20)
    sizes = [len(sent_events(one.body)) for one in received]
    assert sizes == [4, 2, 1, 1, 1, 1]  # the third was refused alone
    assert told == [events[0].event_id]


def test_a_full_file_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_events=3)
    spool.append([b"1", b"2"])
    with pytest.raises(SpoolError, match="spool is full: 2 events wait"):
        spool.append([b"3", b"4"])
    spool.append([b"3"])
    numbers = [number for number, _ in spool.head(2)]
    spool.drop(numbers)
    assert [event for _, event in spool.head(9)] == [b"3"]
    assert len(spool) == 1
    spool.close()


def test_a_file_that_is_no_spool_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, " * 100)
    with pytest.raises(SpoolError, match=r"notes\.txt: file is not a database"):
        Spool(tmp_path / "notes.txt", max_events=1)
    with pytest.raises(SpoolError, match="unable to open"):
        Spool(tmp_path / "none" / "spool", max_events=1)


def test_threads_share_a_sender(live: Client, tmp_path: Path) -> None:
    users = [str(uuid4()) for _ in range(4)]
    with EventSender(live, tmp_path / "spool") as sender:
        threads = [
            threading.Thread(target=lambda user=user: [sender.add(e) for e in watches(user, 10)])
            for user in users
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sender.flush(20)
    assert [len(watched(live, user)) for user in users] == [10] * 4
