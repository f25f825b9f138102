"""What a GPU finds is nearest, all candidates compared: by a real one, and by one of fibers."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fiber_gpu import fiber_gpu, needs_fibers
from numpy.typing import NDArray
from tiny_bundle_builder import unit

import service.engine
from service.engine.candidate_index import CandidateBatch
from service.engine.cuda_encoder import expect_cuda, has_cuda
from service.engine.cuda_kernels import compile_for
from service.engine.cuda_memory import GpuArray, put_on_gpu
from service.engine.cuda_nearest import FEWEST, HALF_ERROR, MOST_FOUND, CudaNearest
from service.engine.cuda_stream import Lane, Stream
from service.engine.steps import Steps, at_once
from service.errors import NotReadyError

WIDTH = 16
ENGINE = Path(service.engine.__file__).parent
SOURCE, ROWS_SOURCE = ENGINE / "cuda_nearest.cu", ENGINE / "cuda_rows.cu"

REAL, FIBERS = FEWEST + 1_000, 6_000
"""Candidates for a real GPU, and for one of fibers, which takes its time."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fibers")


@pytest.fixture(
    params=[
        pytest.param(FIBERS, marks=needs_fibers, id="fibers"),
        pytest.param(
            REAL,
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not has_cuda(), reason="needs an NVIDIA GPU"),
            ],
            id="real",
        ),
    ]
)
def rows(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[int]:
    """How many candidates there are to be compared on the GPU that is there meanwhile."""
    if request.param == REAL:
        expect_cuda()
        yield REAL
        return
    with fiber_gpu(folder, monkeypatch):
        yield FIBERS


def vectors(rows: int, width: int = WIDTH) -> NDArray[np.float32]:
    table_VD = unit(np.random.default_rng(5).standard_normal((rows + 1, width)))
    table_VD[0] = 0
    return table_VD.astype(np.float32)


def near(table_VD: NDArray[np.float32], rows: Sequence[int]) -> NDArray[np.float32]:
    shape = len(rows), table_VD.shape[1]
    noise_BD = 0.1 * np.random.default_rng(6).standard_normal(shape)
    return unit(table_VD[rows] + noise_BD).astype(np.float32)


def expect_best(found: CandidateBatch, exact_BV: NDArray[np.float32], *, certain: int) -> None:
    """Give or take what half precision changes: the first ones are found for certain."""
    exact_BV[:, 0] = -np.inf
    for candidates, exact_V in zip(found, exact_BV, strict=True):
        row_N = candidates.row_N
        assert len({*row_N}) == len(row_N)
        assert (np.diff(candidates.part_N) <= 0).all()
        np.testing.assert_allclose(candidates.part_N, exact_V[row_N], atol=candidates.error)
        assert {*np.argsort(-exact_V)[:certain]} <= {*row_N}
        assert np.delete(exact_V, row_N).max() <= candidates.floor


@pytest.mark.parametrize(
    ("architecture", "width"), [(80, 16), (89, 80), (90, 80), (90, 128), (120, 48), (90, 384)]
)
def test_kernels_compile_for_every_gpu_that_can_run_them(architecture: int, width: int) -> None:
    program = compile_for(SOURCE, (("WIDTH", width), ("STAGES", 2)), architecture)
    assert program.startswith(b"\x7fELF")
    for name in (b"best_of_groups", b"choose_groups", b"score_groups", b"choose_rows"):
        assert name in program
    assert b"lay_out" in compile_for(ROWS_SOURCE, (("WIDTH", width),), architecture)


def test_what_does_not_compile_says_so(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text("int main( {")
    with pytest.raises(NotReadyError, match=r"wrong\.cu cannot be compiled for sm_90"):
        compile_for(source, (), 90)
    with pytest.raises(NotReadyError, match="cannot be compiled for sm_9999"):
        compile_for(SOURCE, (("WIDTH", 16), ("STAGES", 2)), 9999)


def test_few_candidates_are_left_to_the_cpu() -> None:
    assert CudaNearest.can_search(vectors(FEWEST))
    assert not CudaNearest.can_search(vectors(FEWEST - 1))


@pytest.mark.skipif(has_cuda(), reason="shows what happens without CUDA")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(NotReadyError, match="device cuda"):
        CudaNearest(vectors(100), Lane(Stream()))


@pytest.mark.parametrize("width", [16, 40, 127])
def test_a_gpu_finds_the_best_in_batches_of_any_size(
    rows: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.cuda_nearest.ROWS_AT_ONCE", 1_000)
    monkeypatch.setattr("service.engine.cuda_nearest.TOGETHER", 66)
    table_VD = vectors(rows, width)
    nearest = CudaNearest(table_VD, Lane(Stream()))
    for queries, count in ((1, 1), (3, 20), (7, 400), (70, 33)):
        query_BD = near(table_VD, range(rows - queries, rows))
        counts = [count - number % 2 for number in range(queries)]
        found = nearest.search(query_BD, counts)
        assert [len(one.row_N) for one in found] == counts
        expect_best(found, query_BD @ table_VD.T, certain=count * 4 // 5)
    assert all(len(one.row_N) == 0 for one in nearest.search(query_BD, [0] * len(query_BD)))
    nearest.let_go()


def test_a_gpu_finds_as_many_as_there_are_groups_and_more(rows: int) -> None:
    """The best of one query lie in few of them."""
    table_VD = vectors(rows)
    query_BD = near(table_VD, [7, 4_711])
    table_VD[1_000:4_000] = near(np.repeat(query_BD[:1], 3_000, axis=0), range(3_000))
    nearest = CudaNearest(table_VD, Lane(Stream()))
    found = nearest.search(query_BD, [MOST_FOUND] * 2)
    expect_best(found, query_BD @ table_VD.T, certain=MOST_FOUND * 4 // 5)
    assert [len(one.row_N) for one in nearest.search(query_BD, [9_999] * 2)] == [MOST_FOUND] * 2
    nearest.let_go()


def test_a_gpu_finds_each_but_once_where_all_are_alike(rows: int) -> None:
    """As for a query of nothing; one that is no number finds anything, and changes no other."""
    table_VD = vectors(rows)
    query_BD = near(table_VD, [7, 4_711, 99])
    query_BD[0], query_BD[1] = 0, np.nan
    nearest = CudaNearest(table_VD, Lane(Stream()))
    nothing, nan, right = nearest.search(query_BD, [400] * 3)
    assert len({*nothing.row_N}) == len({*nan.row_N}) == 400
    assert not nothing.part_N.any()
    [alone] = nearest.search(query_BD[2:], [400])
    np.testing.assert_array_equal(right.row_N, alone.row_N)
    nearest.let_go()


@pytest.mark.usefixtures("rows")
def test_better_ones_are_found_among_thousands_that_are_alike() -> None:
    """More than are put in order, both of groups and of candidates."""
    table_VD, better = np.zeros((140_001, WIDTH), np.float32), range(133_600, 140_000, 32)
    table_VD[1:, :2], table_VD[better, :2] = (0.6, 0.8), (0.8, 0.6)
    nearest = CudaNearest(table_VD, Lane(Stream()))
    [found] = nearest.search(table_VD[better[:1]], [300])
    assert {*found.row_N[: len(better)]} == {*better}
    assert len({*found.row_N}) == 300
    nearest.let_go()


@pytest.mark.usefixtures("rows")
def test_padding_is_never_a_candidate() -> None:
    """All vectors but the padding's point away from the query; what fills up a run is nothing."""
    table_VD = -np.abs(vectors(300))
    table_VD[200] = -np.eye(WIDTH)[0]
    query_BD = unit(np.ones((1, WIDTH))).astype(np.float32)
    nearest = CudaNearest(table_VD, Lane(Stream()))
    [found] = nearest.search(query_BD, [MOST_FOUND])
    assert sorted(found.row_N) == [*range(1, 301)]
    [found_first] = nearest.search(query_BD, [1])
    assert [*found_first.row_N] == [200]
    assert found.floor == -np.inf
    nearest.let_go()


def test_the_same_is_found_from_any_thread_and_behind_others(rows: int) -> None:
    table_VD, lane = vectors(rows), Lane(Stream())
    nearest = CudaNearest(table_VD, lane, takes_part=True)
    query_BD = near(table_VD, [*range(1, 257)])
    weight_B = np.linspace(0, 0.3, 256).astype(np.float32)
    sizes = (2, 5, 32, 64, 256) if rows == REAL else (2, 9)
    query_BX, there = np.column_stack([query_BD, weight_B]), put_on_gpu(query_BD)
    logit_V = np.random.default_rng(7).normal(-2, 1.5, rows + 1).astype(np.float32)
    with ThreadPoolExecutor(3) as others:
        for is_told in (False, True):
            if is_told:
                nearest.set_part(logit_V)
            for size in sizes:
                counts = [100] * size
                many = [others.submit(nearest.search, query_BX[:size], counts) for _ in sizes]
                expected = nearest.search(query_BX[:size], [513] * size)
                behind = at_once(lane.take(find_behind(nearest, lane, there, weight_B[:size])))
                for found in (behind, *(one.result() for one in many)):
                    assert found.with_parts == is_told
                    wanted_BK = expected.part_BN[:, :100]
                    np.testing.assert_allclose(found.part_BN, wanted_BK, atol=HALF_ERROR)
                    pairs = zip(found.row_BN, expected.row_BN[:, :100], strict=True)
                    assert sum(len({*one} & {*other}) for one, other in pairs) >= 98 * size
    nearest.let_go()


def find_behind(
    nearest: CudaNearest, lane: Lane, there: GpuArray, weight_B: NDArray[np.float32]
) -> Steps[CandidateBatch]:
    find = nearest.launch_behind(there.address, [100] * len(weight_B), weight_B)
    yield from lane.end()
    return find()


def test_a_gpu_chooses_by_the_part_that_it_was_told_last(rows: int) -> None:
    table_VD = vectors(rows)
    nearest = CudaNearest(table_VD, Lane(Stream()), takes_part=True)
    assert nearest.extent.takes_parts
    query_BD = near(table_VD, [*range(1, 20)])
    weight_B = np.linspace(0, 0.3, 19).astype(np.float32)
    query_BX = np.column_stack([query_BD, weight_B])
    counts = [100] * 19
    untold = nearest.search(query_BX, counts)
    assert not untold.with_parts
    plain = CudaNearest(table_VD, Lane(Stream())).search(query_BD, counts)
    np.testing.assert_allclose(untold.part_BN, plain.part_BN, atol=HALF_ERROR)
    for seed in (7, 8):
        logit_V = np.random.default_rng(seed).normal(-2, 1.5, rows + 1).astype(np.float32)
        nearest.set_part(logit_V)
        told = nearest.search(query_BX, counts)
        assert told.with_parts
        exact_BV = query_BD @ table_VD.T + weight_B[:, None] * logit_V
        expect_best(told, exact_BV, certain=80)
        without = nearest.search(query_BD, counts)
        assert not without.with_parts
        np.testing.assert_allclose(without.part_BN, plain.part_BN, atol=HALF_ERROR)


def test_a_gpu_chooses_by_vectors_behind_vectors(rows: int) -> None:
    table_VD, parts_VF = vectors(rows), vectors(rows)[::-1, :5]
    nearest = CudaNearest(table_VD, Lane(Stream()), parts_VF=7 * parts_VF)
    length_V = np.linalg.norm(parts_VF, axis=1, keepdims=True)
    parts_VF = parts_VF / np.maximum(length_V, 1e-6)
    query_BD = near(table_VD, [*range(1, 20)])
    weight_BF = np.random.default_rng(9).standard_normal((19, 5)).astype(np.float32)
    found = nearest.search(np.column_stack([query_BD, weight_BF]), [100] * 19)
    assert found.with_parts
    expect_best(found, query_BD @ table_VD.T + weight_BF @ parts_VF.T, certain=80)
