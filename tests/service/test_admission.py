"""Who gets in when there is much to do, and how often a key may ask."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from app_client import make_settings, serve
from redis.asyncio import Redis as AsyncRedis
from starlette.types import Receive, Scope, Send

from service.admission import Admission
from service.auth import Caller
from service.errors import OverloadedError
from service.rate_limit import RateLimiter


class App:
    """Stands where the routes would, and answers when it is told to."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.state = type("State", (), {"rate_limiter": None})()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.may_end.wait()


async def nothing(*_: Any) -> Any:
    return None


def request(app: App, path: str, key: str) -> Scope:
    state = {"caller": Caller(key, is_admin=False)}
    return {"type": "http", "path": path, "app": app, "state": state}


RECOMMEND, EVENTS, ADMIN, HEALTH = "/recommend/videos", "/events", "/admin/models", "/health/live"


@pytest.mark.parametrize(
    ("under_way", "path", "is_let_in"),
    [
        (4, ADMIN, True),
        (5, ADMIN, False),
        (7, EVENTS, True),
        (8, EVENTS, False),
        (9, RECOMMEND, True),
        (10, RECOMMEND, False),
        (10, HEALTH, True),
    ],
)
def test_what_matters_less_is_refused_earlier(under_way: int, path: str, is_let_in: bool) -> None:
    async def main() -> None:
        app = App()
        admission = Admission(app, max_under_way=10)
        waiting = [
            asyncio.create_task(admission(request(app, RECOMMEND, f"key-{n}"), nothing, nothing))
            for n in range(under_way)
        ]
        await asyncio.sleep(0)
        one_more = asyncio.create_task(admission(request(app, path, "last"), nothing, nothing))
        await asyncio.sleep(0)
        app.may_end.set()
        await asyncio.gather(*waiting)
        if is_let_in:
            await one_more
        else:
            with pytest.raises(OverloadedError):
                await one_more

    asyncio.run(main())


def test_a_flood_of_one_key_leaves_room_for_another() -> None:
    async def main() -> None:
        app = App()
        admission = Admission(app, max_under_way=10)
        flood = [
            asyncio.create_task(admission(request(app, RECOMMEND, "flood"), nothing, nothing))
            for _ in range(100)
        ]
        await asyncio.sleep(0)
        other = asyncio.create_task(admission(request(app, RECOMMEND, "other"), nothing, nothing))
        await asyncio.sleep(0)
        app.may_end.set()
        results = await asyncio.gather(*flood, return_exceptions=True)
        await other  # was let in
        assert sum(result is None for result in results) == 7
        await admission(request(app, RECOMMEND, "flood"), nothing, nothing)  # room again

    asyncio.run(main())


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def spend(limiter: RateLimiter, caller: str, times: int) -> int:
    return sum([await limiter.allows(caller) for _ in range(times)])


def test_two_processes_share_a_keys_tokens(store_url: str, user: str) -> None:
    async def main() -> None:
        async with AsyncRedis.from_url(store_url) as redis:
            limiters = [
                RateLimiter(redis, rate_per_s=0.01, burst=20, timeout_s=5) for _ in range(2)
            ]
            allowed = [await spend(limiter, user, 30) for limiter in limiters]
            assert sum(allowed) == 20
            assert await spend(limiters[0], f"{user}-other", 5) == 5

    asyncio.run(main())


def test_without_a_store_each_process_keeps_to_the_limit_alone(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with AsyncRedis.from_url(f"unix://{tmp_path}/nobody.sock") as redis:
            limiter = RateLimiter(redis, rate_per_s=10, burst=5, timeout_s=1, clock=clock)
            assert await spend(limiter, "key", 9) == 5
            clock.now_s += 0.35
            assert await spend(limiter, "key", 9) == 3
            clock.now_s += 60
            assert await spend(limiter, "key", 9) == 5

    asyncio.run(main())


def test_a_key_that_asks_too_often_is_told_so_and_another_is_not(
    tiny_master: Path, store_url: str, user: str
) -> None:
    settings = make_settings(
        tiny_master, store_url, recommend_keys=f"{user},b", key_rate_per_s=0.01, key_burst=3
    )
    with serve(settings) as client:
        ask: Callable[[str], Any] = lambda key: client.post(  # noqa: E731
            "/recommend/videos",
            json={"user_id": "u"},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert [ask(user).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = ask(user)
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["type"] == "urn:lsvcr:problem:rate-limited"
        assert ask("b").status_code == 200
        assert client.get("/health/ready").status_code == 200
