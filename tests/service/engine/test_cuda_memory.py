"""Memory of a GPU, and who gives way to whom there."""

import ctypes

import numpy as np
import pytest

from service.engine import cuda_memory
from service.engine.cuda_encoder import expect_cuda, has_cuda
from service.engine.cuda_memory import GpuArray, Turns, pinned, put_on_gpu
from service.engine.cuda_stream import Stream
from service.errors import NotReadyError


def test_who_prepares_pauses_only_where_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns, pauses_s = Turns(), list[float]()
    monkeypatch.setattr("time.sleep", pauses_s.append)
    with turns.prepare():
        pass
    assert pauses_s == []
    turns.answer()
    with turns.prepare():
        pass
    [pause_s] = pauses_s
    assert 0 <= pause_s <= 0.005


@pytest.mark.parametrize(
    ("visible", "said"), [("2", "there is no GPU 2, counted from 0"), (None, "there is no GPU")]
)
def test_a_gpu_that_is_not_there_is_named(
    visible: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where two are wanted and `--gpus 2` is said, in place of `0,1`."""

    class NoDevice:
        def cudaStreamCreateWithFlags(self, *_: object) -> int:
            return 100

    monkeypatch.setattr("service.engine.cuda_stream.runtime", NoDevice)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(NotReadyError, match=f"^device cuda: {said}$"):
        Stream()


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="needs an NVIDIA GPU")
def test_memory_of_a_gpu_is_as_large_as_its_array_and_goes_with_it() -> None:
    expect_cuda()
    numbers_N = np.arange(1 << 24, dtype=np.int32)
    stream, back_N = Stream(), pinned(numbers_N.shape, numbers_N.dtype)
    before = free_bytes()
    there = put_on_gpu(numbers_N)
    assert numbers_N.nbytes <= before - free_bytes() <= numbers_N.nbytes + (4 << 20)
    stream.copy_from_gpu(there, back_N)
    stream.wait()
    assert np.array_equal(back_N, numbers_N)
    del there
    assert free_bytes() == before
    with pytest.raises(NotReadyError, match="no place for"):
        GpuArray((1 << 40,), np.float32)


def free_bytes() -> int:
    free, of_all = ctypes.c_size_t(), ctypes.c_size_t()
    assert cuda_memory.runtime().cudaMemGetInfo(ctypes.byref(free), ctypes.byref(of_all)) == 0
    return free.value
