"""What the script leaves in the store, against a plain model that takes one event at a time."""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from lsvcr.catalogue import item_hash
from lsvcr.popularity import HOUR_MS
from service.embedded_store import EmbeddedStore
from service.event_log import Event, encode_event
from service.history_store import AppendResult, HistoryStore
from service.history_value import EVENT_TYPES
from service.popularity_counters import ALL
from service.store_keys import StoreKeys

MakeStore = Callable[..., HistoryStore]
NOW_S = 1_700_000_000
KEYS = StoreKeys(4)


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store whose every key is looked at."""
    with EmbeddedStore(tmp_path_factory.mktemp("own")) as embedded:
        yield embedded.url


class PlainStore:
    """Sorted lists of whole events, changed by one event at a time."""

    def __init__(self, max_events: int) -> None:
        self._max_events = max_events
        self.sides: dict[tuple[str, str], list[tuple[int, int, Event]]] = {}
        self.logged: dict[str, list[bytes]] = {}
        self.counted: Counter[tuple[str, bytes]] = Counter()

    def append(self, event: Event) -> bool:
        """Whether the event was new."""
        kind = "views" if event.type == "comment_view" else event.type.partition("_")[0]
        side = self.sides.setdefault((event.user_id, kind), [])
        new = (event.timestamp, item_hash(event.event_id), event)
        if any(known[1] == new[1] for known in side):
            return False
        place = sum(known[:2] < new[:2] for known in side)
        beside = [known[2].video_id for known in side[max(0, place - 1) : place + 1]]
        side.insert(place, new)
        del side[: -self._max_events]
        self.logged.setdefault(KEYS.events_of(event.user_id), []).append(encode_event(event))
        if kind == "video" and event.video_id not in beside:
            key = KEYS.popularity(KEYS.shard_of(event.user_id), event.timestamp // HOUR_MS)
            self.counted[key, item_hash(event.video_id or "").to_bytes(8, "little")] += 1
            self.counted[key, ALL] += 1
        return True

    def history(self, user_id: str, kind: str) -> list[tuple[str, str, int]]:
        """As an export tells it."""
        return [
            (event.video_id or event.comment_id or "", event.type, event.timestamp)
            for *_, event in self.sides.get((user_id, kind), [])
        ]


IDS = ("a", "bb", "an id of 17 bytes", "ünïcödé", "x" * 128, "漢" * 128)


@st.composite
def drawn_events(draw: st.DrawFn) -> list[Event]:
    """Mostly in the order of time, as events come; some late, some twice, some sent otherwise."""
    late_ms = st.one_of(st.just(0), st.just(0), st.just(0), st.integers(0, 3 * HOUR_MS))
    drawn = draw(
        st.lists(
            st.tuples(
                st.one_of(st.integers(0, 9), st.integers(0, 60)),
                st.sampled_from(EVENT_TYPES),
                st.sampled_from(IDS),
                late_ms,
            ),
            max_size=80,
        )
    )
    return [
        Event(
            event_id=f"e{number}",
            user_id=("one", "two", "one")[number % 3],
            type=event_type,
            timestamp=NOW_S * 1000 + position - late_ms,
            **{f"{event_type.partition('_')[0]}_id": item_id},
        )
        for position, (number, event_type, item_id, late_ms) in enumerate(drawn)
    ]


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=drawn_events(), max_events=st.sampled_from((2, 9, 50)), data=st.data())
def test_events_together_leave_what_one_at_a_time_would(
    make_store: MakeStore, own_store: str, events: list[Event], max_events: int, data: st.DataObject
) -> None:
    plain = PlainStore(max_events)
    is_new = [plain.append(event) for event in events]
    size = data.draw(st.sampled_from((1, 3, 40)))
    store = make_store(own_store, max_events=max_events, clock=lambda: NOW_S)

    async def scenario() -> None:
        for start in range(0, len(events), size):
            new = sum(is_new[start : start + size])
            result = await store.append_events(events[start : start + size])
            assert result == AppendResult(new, len(events[start : start + size]) - new)
        for user in ("one", "two"):
            stored = await store.export_user(user)
            for kind, side in (
                ("video", stored.videos),
                ("comment", stored.comments),
                ("views", stored.views),
            ):
                kept = [(entry.item_id, entry.type, entry.timestamp_ms) for entry in side]
                assert kept == plain.history(user, kind)
            history = await store.fetch_history(user)
            if history is not None:
                read = [item_hash(entry.item_id) for entry in stored.videos]
                assert history.video_hash_N.tolist() == read
                times = [entry.timestamp_ms for entry in stored.comments]
                assert history.comment_timestamp_M.tolist() == times
        await store.close()

    with Redis.from_url(own_store) as redis:
        redis.flushall()
        asyncio.run(scenario())
        keys = [key.decode() for key in redis.scan_iter()]
        logged = {
            key: [fields[b"event"] for _, fields in redis.xrange(key)]
            for key in keys
            if key.startswith("lsvcr:events:")
        }
        assert logged == plain.logged
        counted = {
            (key, item): int(count)
            for key in keys
            if ":popularity:" in key
            for item, count in redis.hgetall(key).items()
        }
        assert counted == plain.counted
        assert all(redis.ttl(key) > 0 for key in keys if key not in logged)


def test_an_event_in_order_rewrites_nothing_but_its_slot(
    make_store: MakeStore, own_store: str
) -> None:
    """What the append-only file and replicas get of it is some hundred bytes, not the history."""
    store = make_store(own_store, max_events=200)
    events = [
        Event(event_id=f"e{n}", user_id="u", type="video_watch", timestamp=n, video_id=f"video-{n}")
        for n in range(1000)
    ]

    async def scenario() -> None:
        await store.append_events(events[:400])
        with Redis.from_url(own_store) as redis:
            redis.config_resetstat()
            for event in events[400:500]:
                await store.append_events([event])
            calls = redis.info("commandstats")
        assert calls["cmdstat_setrange"]["calls"] >= 95
        assert calls["cmdstat_set"]["calls"] <= 5
        assert "cmdstat_expire" not in calls
        videos, _ = await store.fetch_events("u")
        assert [video.timestamp_ms for video in videos] == list(range(300, 500))
        await store.close()

    asyncio.run(scenario())


def test_an_event_beyond_the_cap_is_forgotten_though_its_slot_is_there(
    make_store: MakeStore, own_store: str
) -> None:
    store, key = make_store(own_store, max_events=8), KEYS.history("full")
    events = [
        Event(event_id=f"f{n}", user_id="full", type="video_watch", timestamp=n, video_id=f"v{n}")
        for n in range(9)
    ]

    async def scenario() -> None:
        await store.append_events(events[:8])
        await store.append_events(events[8:])
        with Redis.from_url(own_store) as redis:
            assert item_hash("f0").to_bytes(8, "little") in redis.get(key)
        again = msgspec.structs.replace(events[0], timestamp=99)
        assert await store.append_events([again, events[8]]) == AppendResult(1, 1)
        videos, _ = await store.fetch_events("full")
        assert [video.timestamp_ms for video in videos] == [*range(2, 9), 99]
        await store.close()

    asyncio.run(scenario())


def encode_version_1(events: list[tuple[str, str, int, int]], videos: int) -> bytes:
    """(event id, item id, time, type's number) of some videos and then comments, as once stored."""
    records = [
        struct.pack("<QQQ", item_hash(event), item_hash(item), time_ms | code << 48)
        for event, item, time_ms, code in events
    ]
    ids = [struct.pack("<H", len(item.encode())) + item.encode() for _, item, _, _ in events]
    sizes = sum(map(len, ids[:videos])), sum(map(len, ids[videos:]))
    header = struct.pack("<4sHHII", b"LSV\x01", videos, len(events) - videos, *sizes)
    return header + b"".join(records) + b"".join(ids)


@pytest.mark.parametrize("videos", [0, 1, 3])
def test_a_value_of_version_1_is_read_and_replaced(
    make_store: MakeStore, own_store: str, videos: int
) -> None:
    user = f"old-{videos}"
    old = [("e1", "v1", 10, 0), ("e2", "ä long id", 20, 1), ("e3", "v3", 30, 0)][:videos]
    old += [("e4", "c" * 127, 5, 3), ("e5", "c5", 7, 4)]
    expected = [(item, EVENT_TYPES[code], time_ms) for _, item, time_ms, code in old]
    store = make_store(own_store)

    async def read() -> list[tuple[str, str, int]]:
        sides = await store.fetch_events(user)
        history = await store.fetch_history(user)
        assert history is not None
        assert history.video_hash_N.tolist() == [item_hash(event.item_id) for event in sides[0]]
        return [(event.item_id, event.type, event.timestamp_ms) for side in sides for event in side]

    async def scenario() -> None:
        with Redis.from_url(own_store) as redis:
            redis.set(KEYS.history(user), encode_version_1(old, videos))
            assert await read() == expected
            new = Event(
                event_id="e9", user_id=user, type="video_watch", timestamp=40, video_id="v9"
            )
            known = msgspec.structs.replace(
                new, event_id="e4", type="comment_like", video_id=None, comment_id="c9"
            )
            assert await store.append_events([known, new]) == AppendResult(1, 1)
            assert redis.get(KEYS.history(user))[:4] == b"LSV\x02"
        assert await read() == [*expected[:videos], ("v9", "video_watch", 40), *expected[videos:]]
        await store.close()

    asyncio.run(scenario())


def test_slots_are_as_wide_as_the_longest_id_that_is_kept(
    make_store: MakeStore, own_store: str, tmp_path: Path
) -> None:
    store, key = make_store(own_store, max_events=8), KEYS.history("wide")

    async def append(numbers: range, item: str) -> None:
        await store.append_events(
            [
                Event(
                    event_id=f"w{n}", user_id="wide", type="video_watch", timestamp=n, video_id=item
                )
                for n in numbers
            ]
        )

    async def scenario() -> None:
        with Redis.from_url(own_store) as redis:
            await append(range(8), "v")
            assert redis.strlen(key) == 12 + (8 + 1 + 1) * (24 + 4)
            await append(range(8, 9), "v" * 121)
            assert redis.strlen(key) == 12 + (8 + 1 + 1) * (24 + 124)
            await append(range(9, 30), "v")
            assert redis.strlen(key) == 12 + (8 + 1 + 1) * (24 + 4)
        await store.close()

    asyncio.run(scenario())
