import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from lsvcr.catalogue import item_hash
from service.embedded_store import EmbeddedStore
from service.errors import HistoryStoreError
from service.event_log import Event
from service.history_store import AppendResult, HistoryStore
from service.store_keys import StoreKeys

MakeStore = Callable[..., HistoryStore]


def event(user: str, number: int, timestamp: int, type: str = "video_watch") -> Event:
    item = {"video_id": f"v{number}"} if type.startswith("video") else {"comment_id": f"c{number}"}
    return Event(event_id=f"e{number}", user_id=user, type=type, timestamp=timestamp, **item)


def run_with(store: HistoryStore, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        try:
            await scenario()
        finally:
            await store.close()

    asyncio.run(run())


def new_user() -> str:
    return f"user-{uuid4()}"


def test_a_written_event_is_read_at_once_with_its_hash_and_time(make_store: MakeStore) -> None:
    store, user = make_store(), new_user()

    async def scenario() -> None:
        assert await store.fetch_history(user) is None
        written = [event(user, 1, 1_700_000_000_123), event(user, 2, 5, "comment_like")]
        assert await store.append_events(written) == AppendResult(accepted=2, duplicates=0)
        history = await store.fetch_history(user)
        assert history is not None
        assert history.video_hash_N.tolist() == [item_hash("v1")]
        assert history.video_timestamp_N.tolist() == [1_700_000_000_123]
        assert history.comment_hash_M.tolist() == [item_hash("c2")]
        assert history.comment_timestamp_M.tolist() == [5]

    run_with(store, scenario)


def test_the_same_event_changes_nothing(make_store: MakeStore) -> None:
    store, user = make_store(), new_user()

    async def scenario() -> None:
        batch = [event(user, 1, 10), event(user, 1, 99), event(user, 2, 5)]
        assert await store.append_events(batch) == AppendResult(2, 1)
        assert await store.append_events(batch) == AppendResult(0, 3)
        videos, _ = await store.fetch_events(user)
        assert [(video.item_id, video.timestamp_ms) for video in videos] == [("v2", 5), ("v1", 10)]
        assert len((await store.export_user(user)).logged) == 2

    run_with(store, scenario)


def test_a_view_of_a_comment_is_logged_and_counted_once_but_is_no_history(
    make_store: MakeStore,
) -> None:
    store, user = make_store(), new_user()

    async def scenario() -> None:
        view = event(user, 1, 10, "comment_view")
        assert await store.append_events([view]) == AppendResult(1, 0)
        assert await store.append_events([view]) == AppendResult(0, 1)
        assert await store.fetch_history(user) is None
        stored = await store.export_user(user)
        assert [entry.item_id for entry in stored.views] == ["c1"]
        assert stored.logged == [view]

    run_with(store, scenario)


SIDES = ("video_watch", "comment_write")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_history_is_the_newest_distinct_events_whatever_the_order_of_arrival(
    make_store: MakeStore, data: st.DataObject
) -> None:
    """Against the plain way: a dictionary by event, sorted, cut at the cap."""
    user = new_user()
    drawn = data.draw(
        st.lists(
            st.tuples(st.integers(0, 40), st.sampled_from((0, 1, 2, 7, 2**48 - 1))), max_size=25
        )
    )
    times = dict(drawn)  # one time an event
    events = [event(user, number, times[number], SIDES[number % 2]) for number, _ in drawn]
    cap = data.draw(st.sampled_from((3, 50)))
    batches = data.draw(st.integers(1, 4))
    store = make_store(max_events=cap)

    async def scenario() -> None:
        for start in range(batches):
            await store.append_events(events[start::batches])
        videos, comments = await store.fetch_events(user)
        history = await store.fetch_history(user)
        for side, stored in ((0, videos), (1, comments)):
            expected = sorted(
                (timestamp, item_hash(f"e{number}"), number)
                for number, timestamp in times.items()
                if number % 2 == side
            )[-cap:]
            prefix = "vc"[side]
            assert [(entry.timestamp_ms, entry.item_id, entry.type) for entry in stored] == [
                (timestamp, f"{prefix}{number}", SIDES[side]) for timestamp, _, number in expected
            ]
        assert (history is None) == (not events)
        if history is not None:
            assert history.video_hash_N.tolist() == [item_hash(e.item_id) for e in videos]
            assert history.comment_timestamp_M.tolist() == [e.timestamp_ms for e in comments]

    run_with(store, scenario)


def test_two_writers_lose_nothing(make_store: MakeStore) -> None:
    first, second, user = make_store(), make_store(), new_user()

    async def scenario() -> None:
        writes = [
            store.append_events([event(user, 2 * turn + number, turn)])
            for turn in range(20)
            for number, store in enumerate((first, second))
        ]
        await asyncio.gather(*writes)
        videos, _ = await first.fetch_events(user)
        assert len(videos) == 40
        await second.close()

    run_with(first, scenario)


def test_a_history_expires_after_the_last_event(make_store: MakeStore, store_url: str) -> None:
    store, user = make_store(expiry_s=77), new_user()
    run_with(store, lambda: _append(store, [event(user, 1, 1)]))
    with Redis.from_url(store_url) as redis:
        assert 70 < redis.ttl(StoreKeys(4).history(user)) <= 77


def test_an_expiry_is_renewed_by_the_first_event_in_each_64th_of_it(
    make_store: MakeStore, store_url: str
) -> None:
    user, now_s = new_user(), [6_400.0]
    store = make_store(expiry_s=6_400, clock=lambda: now_s[0])
    events = [event(user, number, number) for number in range(44)]

    async def scenario() -> None:
        key = StoreKeys(4).history(user)
        await _append(store, events[:40])  # so that there are slots for the others
        with Redis.from_url(store_url) as redis:
            for step, (passed_s, is_renewed) in enumerate(
                ((99, False), (1, True), (0, False), (640_000, True))
            ):
                now_s[0] += passed_s
                redis.expire(key, 5_000)
                await _append(store, [events[40 + step]])
                assert (redis.ttl(key) > 5_000) == is_renewed
        videos, _ = await store.fetch_events(user)
        assert len(videos) == 44

    run_with(store, scenario)


@pytest.mark.parametrize("user", ["a}b", "{x}", "}{", "ü/ß?", "a b", "%7B", "*", "x" * 128])
def test_any_user_id_is_found_and_erased_again(make_store: MakeStore, user: str) -> None:
    store = make_store()

    async def scenario() -> None:
        await store.append_events([event(user, 1, 1), event(user, 2, 2, "comment_view")])
        assert await store.fetch_history(user) is not None
        await store.erase_user(user)
        assert await store.fetch_history(user) is None
        stored = await store.export_user(user)
        assert (stored.videos, stored.views, stored.logged) == ([], [], [])

    run_with(store, scenario)


def test_erasing_one_user_leaves_the_log_entries_of_others(make_store: MakeStore) -> None:
    store, user, other = make_store(log_shards=1), new_user(), new_user()

    async def scenario() -> None:
        kept = [event(other, number, number) for number in range(3)]
        await store.append_events([event(user, 1, 1), *kept])
        await store.erase_user(user)
        assert (await store.export_user(other)).logged == kept

    run_with(store, scenario)


def test_the_log_is_capped(make_store: MakeStore, store_folder: Path) -> None:
    with EmbeddedStore(store_folder) as embedded:
        store, user = make_store(embedded.url, log_shards=1, log_max_entries=300), new_user()

        async def scenario() -> None:
            for start in range(0, 2000, 500):
                await store.append_events([event(user, start + n, n) for n in range(500)])
            assert 300 <= len((await store.export_user(user)).logged) < 500

        run_with(store, scenario)


def test_waiting_reads_share_one_command_and_get_their_own_answers(
    make_store: MakeStore, store_url: str
) -> None:
    store, users = make_store(), [new_user() for _ in range(300)]

    async def scenario() -> None:
        await store.append_events([event(user, n, n) for n, user in enumerate(users)])
        async with AsyncRedis.from_url(store_url) as redis:
            before = (await redis.info("commandstats"))["cmdstat_mget"]["calls"]
            histories = await asyncio.gather(*(store.fetch_history(user) for user in users))
            after = (await redis.info("commandstats"))["cmdstat_mget"]["calls"]
        assert after - before == 2  # at most 256 keys a command
        for number, history in enumerate(histories):
            assert history is not None
            assert history.video_hash_N.tolist() == [item_hash(f"v{number}")]

    async def warm() -> None:
        await store.fetch_history("nobody")
        await scenario()

    run_with(store, warm)


def test_a_caller_who_leaves_takes_nobodys_answer_along(make_store: MakeStore) -> None:
    """Requests are cancelled at every stage; each of the others still gets its own history."""
    store, users = make_store(), [new_user() for _ in range(30)]

    async def read(number: int) -> int:
        history = await store.fetch_history(users[number])
        assert history is not None
        return int(history.video_timestamp_N[0])

    async def scenario() -> None:
        await store.append_events([event(user, 1, n) for n, user in enumerate(users)])
        for turn in range(60):
            tasks = [asyncio.ensure_future(read(number)) for number in range(30)]
            for _ in range(turn % 6):
                await asyncio.sleep(0)
            leaving = {n for n in range(30) if (n + turn) % 3 == 0}
            for number in leaving:
                tasks[number].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(results[n] == n for n in range(30) if n not in leaving)

    run_with(store, scenario)


def test_a_read_that_timed_out_leaves_no_answer_for_the_next_reader(
    make_store: MakeStore, store_folder: Path
) -> None:
    with EmbeddedStore(store_folder) as embedded:
        store = make_store(embedded.url, read_timeout_ms=150)

        async def scenario() -> None:
            await store.append_events([event("slow", 1, 1), event("next", 2, 2)])
            async with AsyncRedis.from_url(embedded.url) as redis:
                await redis.client_pause(400)
            with pytest.raises(HistoryStoreError):
                await store.fetch_history("slow")
            await asyncio.sleep(0.4)
            for _ in range(5):
                history = await store.fetch_history("next")
                assert history is not None
                assert history.video_hash_N.tolist() == [item_hash("v2")]

        run_with(store, scenario)


def test_a_write_goes_on_when_its_caller_leaves(make_store: MakeStore) -> None:
    store, user = make_store(), new_user()

    async def scenario() -> None:
        task = asyncio.ensure_future(store.append_events([event(user, 1, 1)]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.append_events([event(user, 1, 1)]) in (
            AppendResult(0, 1),
            AppendResult(1, 0),
        )
        videos, _ = await store.fetch_events(user)
        assert len(videos) == 1

    run_with(store, scenario)


def test_a_lost_store_costs_little_and_is_used_again_once_it_is_back(
    make_store: MakeStore, store_folder: Path
) -> None:
    with EmbeddedStore(store_folder) as embedded:
        store = make_store(embedded.url, read_timeout_ms=200)

        async def scenario() -> None:
            await store.append_events([event("u", 1, 1)])
            await asyncio.sleep(1.1)  # the append-only file reaches the disk each second
            assert embedded.pid is not None
            os.kill(embedded.pid, signal.SIGKILL)
            started_s = time.monotonic()
            for _ in range(20):
                with pytest.raises(HistoryStoreError):
                    await store.fetch_history("u")
            assert time.monotonic() - started_s < 2
            assert store.is_failing
            with pytest.raises(HistoryStoreError):
                await store.append_events([event("u", 2, 2)])
            embedded.stop()
            embedded.start()
            await asyncio.sleep(1.1)  # the breaker's pause
            history = await store.fetch_history("u")
            assert history is not None
            assert not store.is_failing
            assert await store.append_events([event("u", 2, 2)]) == AppendResult(1, 0)

        run_with(store, scenario)


def test_a_value_of_an_unknown_format_is_refused(make_store: MakeStore, store_url: str) -> None:
    store, user = make_store(), new_user()
    with Redis.from_url(store_url) as redis:
        redis.set(StoreKeys(4).history(user), b"LSV\x09 from the future")

    async def scenario() -> None:
        with pytest.raises(HistoryStoreError):
            await store.fetch_history(user)
        with pytest.raises(HistoryStoreError):
            await store.append_events([event(user, 1, 1)])
        assert not store.is_failing

    run_with(store, scenario)


async def _append(store: HistoryStore, events: list[Event]) -> None:
    await store.append_events(events)


def test_a_value_that_cannot_be_read_leaves_its_whole_call_unwritten(
    make_store: MakeStore, store_url: str
) -> None:
    keys = StoreKeys(1)
    fine, broken = new_user(), new_user()
    store = make_store(log_shards=1)

    async def scenario() -> None:
        async with AsyncRedis.from_url(store_url) as redis:
            await redis.set(keys.history(broken), b"LSV\x09" + bytes(12))
            logged = await redis.xlen(keys.events(0))
            with pytest.raises(HistoryStoreError):
                await store.append_events([event(fine, 1, 1), event(broken, 2, 2)])
            assert await store.fetch_history(fine) is None
            assert await redis.xlen(keys.events(0)) == logged
            await redis.delete(keys.history(broken))
            written = await store.append_events([event(fine, 1, 1), event(broken, 2, 2)])
            assert written == AppendResult(2, 0)

    run_with(store, scenario)


def test_more_events_than_one_call_takes_are_stored_and_counted_once(
    make_store: MakeStore,
) -> None:
    store = make_store(log_shards=1, max_events=300)
    users = [new_user() for _ in range(3)]
    events = [event(users[number % 3], number, 1000 + number) for number in range(2, 252)]

    async def scenario() -> None:
        assert await store.append_events([*events, *events[:7]]) == AppendResult(250, 7)
        for place, user in enumerate(users):
            videos, _ = await store.fetch_events(user)
            expected = [f"v{number}" for number in range(2, 252) if number % 3 == place]
            assert [video.item_id for video in videos] == expected

    run_with(store, scenario)


def test_a_user_takes_no_more_than_the_cap_allows(make_store: MakeStore, store_url: str) -> None:
    """12 bytes, then a slot for each kept event, every eighth and one more; ids of 128 here."""
    store, user = make_store(max_events=20), new_user()
    long_id = "x" * 128

    async def scenario() -> None:
        for start in range(0, 400, 100):
            events = [
                Event(
                    event_id=f"{user}-{number}",
                    user_id=user,
                    type=SIDES[number % 2],
                    timestamp=number,
                    **{("video_id", "comment_id")[number % 2]: long_id},
                )
                for number in range(start, start + 100)
            ]
            await store.append_events(events)

    run_with(store, scenario)
    with Redis.from_url(store_url) as redis:
        assert redis.strlen(StoreKeys(4).history(user)) == 12 + 2 * (20 + 2 + 1) * (24 + 128)
