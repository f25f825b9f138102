"""Memory of a GPU, and turns: many use it at a time, or one records a graph there."""

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
import pytest

from service.engine import cuda_memory
from service.engine.cuda_encoder import expect_cuda, has_cuda
from service.engine.cuda_memory import GpuArray, Turns, copy_from_gpu, put_on_gpu
from service.errors import NotReadyError

SOON_S = 60.0

Turn = Callable[[], AbstractContextManager[None]]


def test_uses_go_side_by_side() -> None:
    turns, both = Turns(), threading.Barrier(2)

    def use() -> None:
        with turns.answer():
            both.wait(SOON_S)  # for the other one, who is in there, too

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(use) for _ in range(2)]:
            one.result(SOON_S)


def record_between(
    turns: Turns, turn: Turn, is_awaited: Callable[[], bool], meanwhile: Callable[[], None]
) -> list[str]:
    """The order of a use, a recording that is asked for during it, and another use after that."""
    seen = list[str]()
    is_used, may_end = threading.Event(), threading.Event()

    def use(name: str) -> None:
        with turn():
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
        while not is_awaited():
            assert not recording.done()
        later = pool.submit(use, "after")
        meanwhile()
        may_end.set()
        for one in (first, recording, later):
            one.result(SOON_S)
    return seen


def test_a_recording_waits_for_those_that_have_begun_and_others_wait_for_it() -> None:
    turns = Turns()
    seen = record_between(turns, turns.answer, lambda: turns._is_recording, lambda: None)
    assert seen == ["before", "recorded", "after"]


def test_answers_go_on_while_a_recording_waits_for_what_is_prepared() -> None:
    turns, answered = Turns(), list[int]()

    def answer_twice() -> None:
        for number in range(2):
            with turns.answer():
                answered.append(number)

    seen = record_between(turns, turns.prepare, lambda: turns._is_wanted, answer_twice)
    assert (seen, answered) == (["before", "recorded", "after"], [0, 1])


def test_turns_never_overlap_a_recording() -> None:
    turns, recording, overlaps = Turns(), threading.Event(), list[int]()

    def work(number: int) -> None:
        if number % 7 == 0:
            with turns.record():
                recording.set()
                recording.clear()
        else:
            with turns.answer() if number % 2 else turns.prepare():
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


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="needs an NVIDIA GPU")
def test_memory_of_a_gpu_is_as_large_as_its_array_and_goes_with_it() -> None:
    expect_cuda()
    numbers_N = np.arange(1 << 24, dtype=np.int32)
    before = free_bytes()
    there = put_on_gpu(numbers_N)
    assert numbers_N.nbytes <= before - free_bytes() <= numbers_N.nbytes + (4 << 20)
    back_N = np.zeros_like(numbers_N)
    copy_from_gpu(there, back_N)
    assert np.array_equal(back_N, numbers_N)
    del there
    assert free_bytes() == before
    with pytest.raises(NotReadyError, match="no place for"):
        GpuArray((1 << 40,), np.float32)


def free_bytes() -> int:
    free, of_all = ctypes.c_size_t(), ctypes.c_size_t()
    assert cuda_memory._runtime().cudaMemGetInfo(ctypes.byref(free), ctypes.byref(of_all)) == 0
    return free.value
