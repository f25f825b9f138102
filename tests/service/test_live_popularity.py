"""What is watched now lifts videos in the answers of every replica."""

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from app_client import make_settings, serve
from redis import Redis
from starlette.testclient import TestClient
from tiny_bundle_builder import PRIOR, TINY_VERSIONS, prior_logit, write_tiny_bundle

from lsvcr.catalogue import item_hash
from lsvcr.history import Timelines
from lsvcr.popularity import HOUR_MS
from lsvcr.registry import write_current
from service.embedded_store import EmbeddedStore
from service.engine.engine import InlineEngine
from service.engine.model_pool import ModelPool
from service.engine.queries import VideoQuery
from service.event_log import Event
from service.history_store import HistoryStore
from service.popularity_counters import ALL, HOURS
from service.popularity_follower import PopularityFollower
from service.store_keys import StoreKeys

NOW = int(time.time() // 3600)
LAST_HOUR_MS = (NOW - 1) * HOUR_MS + HOUR_MS // 2
DAY = 24
MakeStore = Callable[..., HistoryStore]


@pytest.fixture(scope="module")
def prior_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny bundles with a prior, the first one current."""
    registry = tmp_path_factory.mktemp("prior") / "registry"
    for seed, version in enumerate(TINY_VERSIONS):
        write_tiny_bundle(registry / version, version=version, seed=seed, prior=PRIOR)
    write_current(registry, TINY_VERSIONS[0])
    return registry


@pytest.fixture
def server(store_folder: Path) -> Iterator[EmbeddedStore]:
    """A store of its own: counters are nobody's in particular."""
    with EmbeddedStore(store_folder) as embedded:
        yield embedded


def watch(video: str, timestamp_ms: int, user: str | None = None) -> Event:
    return Event(
        event_id=str(uuid4()),
        user_id=user or str(uuid4()),
        type="video_watch",
        timestamp=timestamp_ms,
        video_id=video,
    )


def logit(count_by_age: dict[int, int]) -> float:
    """The prior of a video that the seed knows nothing of, from counts by their age in hours."""
    return prior_logit(
        [
            sum(n * 2 ** (-age / (DAY * half_life)) for age, n in count_by_age.items())
            for half_life in PRIOR.half_lives_days
        ]
    )


def is_close_to(count: int, prior: float) -> bool:
    """Whether a prior is that of events of the last hour, or of the one before: clocks go on."""
    return any(prior == pytest.approx(logit({age: count}), abs=1e-4) for age in (1, 2))


def popular(client: TestClient) -> list[dict[str, Any]]:
    return recommend(client, {"user_id": str(uuid4())})


def recommend(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = client.post("/recommend/videos", json={"k": 50, "explain": True, **body})
    items: list[dict[str, Any]] = response.json()["items"]
    return items


def prior_of(items: list[dict[str, Any]], video: str) -> float:
    [prior] = [item["parts"]["prior"] for item in items if item["video_id"] == video]
    return float(prior)


def wait_until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end_s, "did not happen in time"
        time.sleep(0.05)


def test_a_video_that_was_watched_an_hour_ago_rises_in_every_replica(
    prior_registry: Path, server: EmbeddedStore
) -> None:
    settings = make_settings(prior_registry, server.url, popularity_refresh_s=0.1)
    history = {"history": {"videos": [{"video_id": "v3", "timestamp": 1}]}}
    with serve(settings) as first, serve(settings) as second:
        assert popular(first)[0]["video_id"] != "v33"
        place = [item["video_id"] for item in recommend(first, history)].index("v33")
        events = [
            {
                "event_id": f"e{number}",
                "user_id": f"u{number}",
                "type": "video_like",
                "video_id": "v33",
                "timestamp": LAST_HOUR_MS + number,
            }
            for number in range(400)
        ]
        assert first.post("/events", json={"events": events}).json()["accepted"] == 400
        assert first.post("/events", json={"events": events}).json()["duplicates"] == 400
        for replica in (first, second):
            # a replica may look while the events are still being stored: the next look has them all
            wait_until(
                lambda replica=replica: is_close_to(  # type: ignore[misc]
                    400, prior_of(popular(replica), "v33")
                )
            )
            assert popular(replica)[0]["video_id"] == "v33"
            items = recommend(replica, history)
            assert is_close_to(400, prior_of(items, "v33"))
            assert [item["video_id"] for item in items].index("v33") < place
        assert popular(first) == popular(second)


def test_without_the_store_the_last_counts_go_on_counting(
    prior_registry: Path, server: EmbeddedStore
) -> None:
    settings = make_settings(prior_registry, server.url, popularity_refresh_s=0.1)
    with serve(settings) as client:
        body = {
            "event_id": "e",
            "user_id": "u",
            "type": "video_like",
            "video_id": "v33",
            "timestamp": LAST_HOUR_MS,
        }
        client.post("/events", json={"events": [body]})
        wait_until(lambda: popular(client)[0]["video_id"] == "v33")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: client.get("/health/ready").json()["degraded"] == ["history_store"])
        time.sleep(0.3)  # some refreshes
        assert is_close_to(1, prior_of(popular(client), "v33"))


def test_counts_follow_the_calendar_and_reach_bundles_before_they_answer(
    prior_registry: Path, server: EmbeddedStore, make_store: MakeStore
) -> None:
    now_s = [NOW // DAY * DAY * 3600.0]

    async def scenario() -> None:
        store = make_store(server.url, clock=lambda: now_s[0])
        pool = ModelPool(
            prior_registry,
            InlineEngine(prior_registry, device="cpu", max_batch=4),
            max_queue=9,
            max_batch=4,
        )
        follower = PopularityFollower(store, pool, clock=lambda: now_s[0])

        async def prior() -> float:
            await follower.refresh()
            query = VideoQuery(None, 50, float("inf"), explain=True)
            answer = await pool.current().recommend_videos(query)
            [parts] = [item.parts for item in answer.items if item.video_id == "v33"]
            assert parts is not None
            return parts["prior"]

        await follower.refresh()
        await pool.open()
        midnight_ms = NOW // DAY * DAY * HOUR_MS
        await store.append_events([watch("v33", midnight_ms + 5)] * 2)  # one event, sent twice
        assert await prior() == pytest.approx(logit({}), abs=1e-4)
        now_s[0] += 3600
        assert await prior() == pytest.approx(logit({1: 1}), abs=1e-4)
        late = [watch("v33", midnight_ms + 6) for _ in range(8)]
        await store.append_events(late)
        assert await prior() == pytest.approx(logit({1: 9}), abs=1e-4)
        too_old = [watch("v33", midnight_ms - 70 * DAY * HOUR_MS)]
        await store.append_events([*too_old, watch("v33", midnight_ms + 3 * DAY * HOUR_MS)])
        await store.append_events([watch("v33", midnight_ms - 9 * DAY * HOUR_MS)])  # late by a lot
        assert await prior() == pytest.approx(logit({1: 9}), abs=1e-4)
        await pool.activate(TINY_VERSIONS[1])  # has the counts before anybody asks it
        query = VideoQuery(None, 1, float("inf"))
        [best] = (await pool.current().recommend_videos(query)).items
        assert best.video_id == "v33"
        await pool.rollback()
        now_s[0] += DAY * 3600
        assert await prior() == pytest.approx(logit({25: 9, 10 * DAY + 1: 1}), abs=1e-4)
        await pool.close()
        await store.close()

    asyncio.run(scenario())


def test_events_are_counted_as_training_counts_them(
    server: EmbeddedStore, make_store: MakeStore
) -> None:
    """Training takes events of one user on one video in a row for one."""
    random = np.random.default_rng(4)
    user_N, video_N = random.integers(0, 5, 120), random.integers(1, 4, 120)
    time_N = LAST_HOUR_MS + np.arange(120)
    timelines = Timelines.build(
        users=5,
        video_user_N=user_N,
        video_N=video_N,
        video_time_N=time_N,
        comment_user_C=np.empty(0, np.int64),
        comment_C=np.empty(0, np.int64),
        comment_video_C=np.empty(0, np.int64),
        comment_time_C=np.empty(0, np.int64),
        comments_per_event=1,
    )

    async def scenario() -> None:
        store = make_store(server.url)
        events = [
            watch(f"v{video}", moment, f"u{user}")
            for user, video, moment in zip(
                user_N.tolist(), video_N.tolist(), time_N.tolist(), strict=True
            )
        ]
        await store.append_events(events[:50])
        await store.append_events(events[50:])
        [(hash_E, count_E)] = await store.fetch_popularity([NOW - 1])
        await store.erase_user("u1")
        [(_, after_E)] = await store.fetch_popularity([NOW - 1])
        await store.close()
        counted = dict(zip(hash_E.tolist(), count_E.tolist(), strict=True))
        expected = np.bincount(timelines.video_N, minlength=4)
        assert counted == {item_hash(f"v{video}"): expected[video] for video in (1, 2, 3)}
        assert after_E.sum() == count_E.sum()  # erasing doesn't count back

    asyncio.run(scenario())


def test_hours_of_many_videos_are_read_page_by_page(
    server: EmbeddedStore, make_store: MakeStore
) -> None:
    """As a whole they would hold up the store, and whoever reads a history meanwhile."""
    counts = {number.to_bytes(8, "little"): number for number in range(1, 3001)}

    async def scenario() -> None:
        store = make_store(server.url, log_shards=2)
        keys = StoreKeys(2)
        with Redis.from_url(server.url) as redis:
            for shard in (0, 1):
                for age in range(1, 8):
                    name = keys.popularity(shard, NOW - age)
                    redis.hset(name, mapping=counts | {ALL: sum(counts.values())})
            redis.config_resetstat()
            read = await store.fetch_popularity([NOW - 1, NOW - 9, *range(NOW - 7, NOW - 1)])
            pages = redis.info("commandstats")["cmdstat_hscan"]["calls"]
        await store.close()
        assert [len(hash_E) for hash_E, _ in read] == [3000, 0] + [3000] * 6
        for hash_E, count_E in [read[0], *read[2:]]:
            assert np.array_equal(count_E, 2 * hash_E.astype(np.int64))
        assert pages >= 14 * 5

    asyncio.run(scenario())


def test_an_hour_is_read_again_only_where_its_total_has_changed(
    server: EmbeddedStore, make_store: MakeStore, prior_registry: Path
) -> None:
    """One in which an older service has counted has no total, and is read each time."""

    async def scenario() -> None:
        store = make_store(server.url, log_shards=1, clock=lambda: NOW * 3600.0)
        engine = InlineEngine(prior_registry, device="cpu", max_batch=2)
        pool = ModelPool(prior_registry, engine, max_queue=8, max_batch=2)
        follower = PopularityFollower(store, pool, clock=lambda: NOW * 3600.0)
        await pool.open()

        async def refresh() -> tuple[int, float]:
            """How many hours are read, and what `v33` has from them."""
            with Redis.from_url(server.url) as redis:
                redis.config_resetstat()
                await follower.refresh()
                reads = redis.info("commandstats").get("cmdstat_hscan", {"calls": 0})
            answer = await pool.current().recommend_videos(
                VideoQuery(None, 50, math.inf, explain=True)
            )
            [prior] = [item.parts for item in answer.items if item.video_id == "v33"]
            assert prior is not None
            return reads["calls"], prior["prior"]

        def having(count_by_age: dict[int, int]) -> object:
            return pytest.approx(logit(count_by_age), abs=1e-4)

        await store.append_events([watch("v33", LAST_HOUR_MS - n * HOUR_MS) for n in range(5)])
        with Redis.from_url(server.url) as redis:
            redis.hdel(StoreKeys(1).popularity(0, NOW - 5), ALL)
        once = dict.fromkeys(range(1, 6), 1)
        assert await refresh() == (HOURS, having(once))
        assert await refresh() == (1, having(once))
        await store.append_events([watch("v33", LAST_HOUR_MS), watch("v3", LAST_HOUR_MS)])
        assert await refresh() == (2, having(once | {1: 2}))
        assert await refresh() == (1, having(once | {1: 2}))
        with Redis.from_url(server.url) as redis:
            redis.flushall()
        assert await refresh() == (5, having({}))
        assert await refresh() == (0, having({}))
        await pool.close()
        await store.close()

    asyncio.run(scenario())


def test_a_clock_that_steps_back_or_far_ahead_breaks_nothing(
    make_store: MakeStore, server: EmbeddedStore, prior_registry: Path
) -> None:
    """Events are kept, counted once, and the prior is told again as the clock has it."""
    now_s = [NOW * 3600.0]

    async def scenario() -> None:
        store = make_store(server.url, clock=lambda: now_s[0])
        engine = InlineEngine(prior_registry, device="cpu", max_batch=2)
        pool = ModelPool(prior_registry, engine, max_queue=8, max_batch=2)
        follower = PopularityFollower(store, pool, clock=lambda: now_s[0])
        await pool.open()
        for step_s in (0, -3 * 3600, -40 * 86_400, 90 * 86_400, -50 * 86_400 + 60):
            now_s[0] += step_s
            written = watch("v3", LAST_HOUR_MS, "clockwork")
            assert (await store.append_events([written])).accepted == 1
            await follower.refresh()
            answer = await pool.current().recommend_videos(VideoQuery(None, 5, math.inf))
            assert len(answer.items) == 5 and not answer.degraded
        history = await store.fetch_history("clockwork")
        assert history is not None and len(history.video_hash_N) == 5
        await pool.close()
        await store.close()

    asyncio.run(scenario())
