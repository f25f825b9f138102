"""What a process does again and again."""

import asyncio

import pytest

from service.own_times import repeat


def test_what_fails_is_logged_and_done_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[int]:
        seen: list[int] = []
        enough = asyncio.Event()

        async def do() -> None:
            seen.append(len(seen))
            if len(seen) == 3:
                enough.set()
            raise RuntimeError(f"attempt {len(seen)}")

        task = asyncio.create_task(repeat(do, every_s=0.001, name="trying"))
        await asyncio.wait_for(enough.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return seen

    assert asyncio.run(main())[:3] == [0, 1, 2]
    failed = [record for record in caplog.records if record.getMessage() == "trying failed"]
    assert [str(one.exc_info[1]) for one in failed[:2] if one.exc_info] == [
        "attempt 1",
        "attempt 2",
    ]


def test_processes_begin_at_times_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise asyncio.CancelledError

    async def do() -> None:
        pass

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr("service.own_times.random.random", lambda: 0.25)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(repeat(do, every_s=8, name="trying"))
    assert waited == [2, 8, 8]
