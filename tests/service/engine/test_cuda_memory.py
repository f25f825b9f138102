"""Many use a GPU at a time, or one records a graph there."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.engine.cuda_memory import Turns

SOON_S = 60.0


def test_uses_go_side_by_side() -> None:
    turns, both = Turns(), threading.Barrier(2)

    def use() -> None:
        with turns.answer():
            both.wait(SOON_S)  # for the other one, who is in there, too

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(use) for _ in range(2)]:
            one.result(SOON_S)


def test_a_recording_waits_for_those_that_have_begun_and_others_wait_for_it() -> None:
    turns, seen = Turns(), list[str]()
    is_used, may_end = threading.Event(), threading.Event()

    def use(name: str) -> None:
        with turns.answer():
            is_used.set()
            may_end.wait(SOON_S)
            seen.append(name)

    def record() -> None:
        with turns.record():
            seen.append("recorded")

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(use, "before")
        assert is_used.wait(SOON_S)
        recording = pool.submit(record)
        while not turns._is_recording:
            assert not recording.done()
        later = pool.submit(use, "after")
        may_end.set()
        for one in (first, recording, later):
            one.result(SOON_S)
    assert seen == ["before", "recorded", "after"]


def test_turns_never_overlap_a_recording() -> None:
    turns, recording, overlaps = Turns(), threading.Event(), list[int]()

    def work(number: int) -> None:
        if number % 7 == 0:
            with turns.record():
                recording.set()
                recording.clear()
        else:
            with turns.answer():
                overlaps.extend([number] * recording.is_set())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(2_000)))
    assert overlaps == []


def test_who_prepares_pauses_only_where_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns, pauses_s = Turns(), list[float]()
    monkeypatch.setattr("time.sleep", pauses_s.append)
    with turns.prepare():
        pass
    assert pauses_s == []
    with turns.answer():
        pass
    with turns.prepare():
        pass
    [pause_s] = pauses_s
    assert 0 <= pause_s <= 0.005
