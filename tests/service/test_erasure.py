"""Erasing a user leaves nothing of them in the store, wherever it was: all of it is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app_client import make_settings, serve
from experiment_apps import definition, put, wait_until
from redis import Redis
from starlette.testclient import TestClient

from service.embedded_store import EmbeddedStore

EVENT = {"type": "video_watch", "timestamp": 5}


def everything(redis: Redis) -> Iterator[tuple[bytes, bytes]]:
    """Each key of the store with all of its content."""
    for key in redis.scan_iter(count=1000):
        read: dict[bytes, Any] = {
            b"string": redis.get,
            b"hash": redis.hgetall,
            b"stream": redis.xrange,
            b"set": redis.smembers,
            b"list": lambda one: redis.lrange(one, 0, -1),
            b"zset": lambda one: redis.zrange(one, 0, -1),
        }
        yield key, repr(read[redis.type(key)](key)).encode()


def exposures_of(redis: Redis, user: str) -> int:
    return sum(
        content.count(f'"user_id":"{user}"'.encode())
        for key, content in everything(redis)
        if key.startswith(b"lsvcr:exposures")
    )


def test_nothing_of_an_erased_user_is_left_in_the_store(
    tiny_master: Path, store_folder: Path
) -> None:
    gone, kept = "user-to-be-forgotten", "user-who-stays"
    with EmbeddedStore(store_folder) as embedded, Redis.from_url(embedded.url, protocol=2) as redis:
        settings = make_settings(tiny_master, embedded.url)
        with serve(settings) as one, serve(settings) as another:  # two processes' worth
            put(one, definition("both", sticky=True))
            for user in (gone, kept):
                events = [
                    {
                        "event_id": f"{user}-{kind}",
                        "user_id": user,
                        "type": kind,
                        "timestamp": 5,
                        item: item[0] + "3",
                    }
                    for kind, item in (
                        ("video_watch", "video_id"),
                        ("comment_like", "comment_id"),
                        ("comment_view", "comment_id"),
                    )
                ]
                assert one.post("/events", json={"events": events}).json()["accepted"] == 3
                for client in (one, another):
                    for path in ("/recommend/videos", "/recommend/feed"):
                        assert client.post(path, json={"user_id": user}).status_code == 200
            assert one.get(f"/users/{gone}/export").json()["event_log"]
            # A process that a busy machine holds up writes its exposures late.
            wait_until(lambda: exposures_of(redis, gone) == 4, "all exposures are written")
            assert one.delete(f"/users/{gone}").status_code == 204
            scanned = list(everything(redis))
            assert sum(kept.encode() in key + content for key, content in scanned) >= 3
            left = [key for key, content in scanned if gone.encode() in key + content]
            assert not left
            exported = one.get(f"/users/{gone}/export").json()
            assert not any(exported[part] for part in ("views", "event_log"))


def test_the_bytes_of_erased_entries_go_with_the_newest_that_the_log_may_keep(
    tiny_master: Path, store_folder: Path
) -> None:
    """As stated: a deleted entry's bytes stay until the log has as many newer ones as it keeps."""
    gone, kept_entries = "user-to-be-forgotten", 400

    def dumped(redis: Redis) -> bytes:
        return b"".join(redis.dump(key) for key in redis.scan_iter(count=1000))

    def fill(client: TestClient, first: int, count: int) -> None:
        for number in range(first, first + count, 100):
            users = [f"user-{one}" for one in range(number, number + 100)]
            events = [
                {**EVENT, "event_id": f"{user}-watch", "user_id": user, "video_id": "v2"}
                for user in users
            ]
            assert client.post("/events", json={"events": events}).json()["accepted"] == 100
            requests = [{"kind": "videos", "user_id": user} for user in users]
            answers = client.post("/recommend/batch", json={"requests": requests})
            assert answers.status_code == 200

    with EmbeddedStore(store_folder) as embedded, Redis.from_url(embedded.url, protocol=2) as redis:
        redis.config_set("rdbcompression", "no")  # else their bytes could not be found
        settings = make_settings(
            tiny_master,
            embedded.url,
            event_log_max_entries=kept_entries,
            exposure_log_max_entries=kept_entries,
        )
        with serve(settings) as client:
            put(client, definition("both"))
            fill(client, 0, 100)  # neighbours in the block of the entries
            event = {**EVENT, "event_id": "gone", "user_id": gone, "video_id": "v1"}
            assert client.post("/events", json={"events": [event]}).json()["accepted"] == 1
            assert client.post("/recommend/videos", json={"user_id": gone}).status_code == 200
            wait_until(lambda: exposures_of(redis, gone) == 1, "the exposure is written")
            assert client.delete(f"/users/{gone}").status_code == 204
            assert not any(gone.encode() in key + content for key, content in everything(redis))
            assert gone.encode() in dumped(redis), "no longer needed: say so in the documents"
            fill(client, 100, 2 * kept_entries)
            wait_until(lambda: gone.encode() not in dumped(redis), "the log has moved on")
