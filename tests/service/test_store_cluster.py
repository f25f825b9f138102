"""Histories in a real cluster of three masters, and keys that an older version left."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from app_client import make_settings, serve
from redis import Redis, RedisCluster

from faults.store_cluster import StoreCluster
from lsvcr.catalogue import item_hash
from lsvcr.popularity import HOUR_MS
from service.embedded_store import EmbeddedStore
from service.event_log import Event
from service.history_store import AppendResult, HistoryStore
from service.store_keys import StoreKeys
from service.store_migration import StoreSchemaError

MakeStore = Callable[..., HistoryStore]
NOW_MS = int(time.time() * 1000)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreCluster]:
    cluster = StoreCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def watched(user: str, number: int) -> Event:
    return Event(
        event_id=f"{user}-{number}",
        user_id=user,
        type="video_watch",
        video_id=f"v{number}",
        timestamp=NOW_MS - HOUR_MS,
    )


def run_with(store: HistoryStore, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        try:
            await scenario()
        finally:
            await store.close()

    asyncio.run(run())


def test_users_of_all_servers_are_written_read_counted_and_erased(
    make_store: MakeStore, cluster: StoreCluster, user: str
) -> None:
    store = make_store(cluster.url, log_shards=12)
    users = [f"{user}-{number}" for number in range(60)]

    async def scenario() -> None:
        await store.migrate()
        written = [watched(one, number) for one in users for number in (1, 2)]
        assert await store.append_events(written) == AppendResult(120, 0)
        assert await store.append_events(written) == AppendResult(0, 120)
        histories = await asyncio.gather(*(store.fetch_history(one) for one in users))
        for history in histories:
            assert history is not None
            assert sorted(history.video_hash_N.tolist()) == sorted(map(item_hash, ("v1", "v2")))
        ((hash_E, count_E),) = await store.fetch_popularity([(NOW_MS - HOUR_MS) // HOUR_MS])
        assert dict(zip(hash_E.tolist(), count_E.tolist(), strict=True)) == {
            item_hash("v1"): 60,
            item_hash("v2"): 60,
        }
        assert set(await store.fetch_recent_users(1000)) == set(users)
        assert len((await store.export_user(users[0])).logged) == 2
        for one in users:
            await store.erase_user(one)

    run_with(store, scenario)
    masters = {server.port: keys_of(server.client()) for server in cluster.servers}
    assert all(masters.values())  # each holds a part
    left = {key for keys in masters.values() for key in keys if user.encode() in key}
    assert not left
    assert not {one for one in cluster.logged_event_ids() if one.startswith(user)}


def keys_of(redis: Redis) -> list[bytes]:
    with redis:
        return redis.keys("*")


def test_a_service_on_a_cluster_reads_what_it_wrote(
    tiny_master: Path, cluster: StoreCluster, user: str
) -> None:
    settings = make_settings(tiny_master, cluster.url, store_shards=12)
    with serve(settings) as client:
        events = [
            {
                "event_id": f"{user}-{number}",
                "user_id": f"{user}-{number}",
                "type": "video_watch",
                "video_id": "v3",
                "timestamp": 1,
            }
            for number in range(20)
        ]
        assert client.post("/events", json={"events": events}).json()["accepted"] == 20
        requests = [{"kind": "videos", "user_id": event["user_id"]} for event in events]
        results = client.post("/recommend/batch", json={"requests": requests}).json()["results"]
        assert [result["history_used"]["videos"] for result in results] == [1] * 20
        assert client.get("/health/ready").json()["degraded"] == []
        assert client.delete(f"/users/{user}-0").status_code == 204
        with RedisCluster(host="127.0.0.1", port=cluster.servers[0].port) as redis:
            names = [key.decode() for key in redis.scan_iter("lsvcr:*")]
        assert not [name for name in names if name.endswith(f":{user}-0")]


def test_a_cluster_that_is_gone_costs_answers_their_history_and_no_more(
    tiny_master: Path, cluster: StoreCluster, user: str
) -> None:
    question = {"user_id": user, "k": 3}
    event = {"event_id": user, "user_id": user, "type": "video_like", "timestamp": 1}
    events = {"events": [{**event, "video_id": "v1"}]}
    settings = make_settings(tiny_master, cluster.url, store_shards=12)
    with serve(settings) as client:
        assert client.post("/events", json=events).json()["accepted"] == 1
        for server in cluster.servers:
            server.kill()
        for _ in range(8):  # before the breaker opens, and after
            answer = client.post("/recommend/videos", json=question)
            assert answer.status_code == 200
            assert answer.json()["degraded"] == ["history_store"]
        assert client.post("/events", json=events).status_code == 503
        assert client.get("/health/ready").json()["degraded"] == ["history_store"]
        assert client.get("/admin/experiments").status_code == 503
        for server in cluster.servers:
            server.start(*cluster.options(server))
        end_s = time.monotonic() + 60
        while client.post("/recommend/videos", json=question).json()["degraded"]:
            assert time.monotonic() < end_s, "not back"
            time.sleep(0.05)
        assert client.post("/events", json=events).json()["duplicates"] == 1


def test_keys_of_an_older_version_are_renamed_with_values_and_expiries(
    make_store: MakeStore, store_folder: Path
) -> None:
    users = ["plain", "a}b", "ü/ß?", "%7B", "a b"]
    old_names = ["plain", "a%7Db", "%C3%BC%2F%C3%9F%3F", "%257B", "a%20b"]
    with EmbeddedStore(store_folder) as embedded, Redis.from_url(embedded.url) as redis:
        store = make_store(embedded.url)

        async def write() -> None:
            await store.append_events([watched(user, 1) for user in users])

        run_with(store, write)
        keys = StoreKeys(4)
        for user, old_name in zip(users, old_names, strict=True):  # as schema 1 called them
            redis.rename(keys.history(user), f"lsvcr:{{{old_name}}}:history")
        hour = (NOW_MS - HOUR_MS) // HOUR_MS
        redis.hset(f"lsvcr:popularity:{hour}", item_hash("v9").to_bytes(8, "little"), 5)
        redis.delete("lsvcr:schema")
        store = make_store(embedded.url)

        async def read() -> None:
            await asyncio.gather(store.migrate(), store.migrate())
            for user in users:
                history = await store.fetch_history(user)
                assert history is not None
                assert history.video_hash_N.tolist() == [item_hash("v1")]
            ((hash_E, count_E),) = await store.fetch_popularity([hour])
            counts = dict(zip(hash_E.tolist(), count_E.tolist(), strict=True))
            assert counts == {item_hash("v1"): len(users), item_hash("v9"): 5}

        run_with(store, read)
        assert 0 < redis.ttl(keys.history("a}b")) <= 3600
        assert not list(redis.scan_iter("lsvcr:*}:history"))


@pytest.mark.parametrize("found", ["3 4", "2 8"])
def test_a_store_that_we_would_misread_is_refused(
    tiny_master: Path, store_folder: Path, found: str
) -> None:
    with EmbeddedStore(store_folder) as embedded:
        with Redis.from_url(embedded.url) as redis:
            redis.set("lsvcr:schema", found)
        with (
            pytest.raises(StoreSchemaError, match=f"'{found}'; we have '2 4'"),
            serve(make_settings(tiny_master, embedded.url)),
        ):
            pass
