"""The graph that compares all candidates finds what is nearest, on a CPU as on a GPU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from tiny_bundle_builder import unit

from export.nearest_graph import write_nearest_graphs
from lsvcr.bundle import (
    NEAREST,
    NEAREST_FEW,
    NEAREST_FEW_FOUND,
    NEAREST_FILLED,
    NEAREST_ROWS_GRAPH,
    NearestGraph,
)
from service.engine.candidate_index import CandidateBatch
from service.engine.cuda_encoder import expect_cuda, has_cuda
from service.engine.cuda_memory import GpuArray, put_on_gpu
from service.engine.cuda_nearest import (
    ALIGNED,
    FEWEST,
    HALF_ERROR,
    MANY_FOUND,
    NEVER,
    CudaNearest,
    counts_of,
    member_places,
    without_padding,
)
from service.engine.cuda_stream import Lane, Stream
from service.engine.steps import Steps, at_once
from service.errors import NotReadyError

WIDTH = 16
ROWS = FEWEST + 1_000

Find = Callable[[NDArray[np.float32], int], tuple[NDArray[np.int32], NDArray[np.float32]]]


def vectors(rows: int) -> NDArray[np.float32]:
    table_VD = unit(np.random.default_rng(5).standard_normal((rows + 1, WIDTH)))
    table_VD[0] = 0
    return table_VD.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_nearest_graphs(folder)
    return folder


def open_on_cpu(graph: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, ["CPUExecutionProvider"])


def on_cpu(folder: Path, table_VW: NDArray[np.float32], graph: NearestGraph = NEAREST) -> Find:
    session = open_on_cpu(folder / graph.name)
    filling_NW = np.zeros((-len(table_VW) % NEAREST_FILLED, table_VW.shape[1]))
    half_NW = np.concatenate([table_VW, filling_NW]).astype(np.float16)
    parts = np.split(half_NW, graph.parts)
    tables = {
        **{f"candidate_{part}": part_NW for part, part_NW in enumerate(parts)},
        **member_places(graph, len(half_NW)),
        "rows": np.array([len(table_VW)]),
    }

    def find(
        query_BW: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        counts = {} if graph.found else counts_of(graph, len(half_NW), count)
        row_BK, part_BK = session.run(["row", "part"], {"query": query_BW, **tables, **counts})
        return row_BK, part_BK

    return find


def near(table_VD: NDArray[np.float32], rows: list[int]) -> NDArray[np.float32]:
    noise_BD = 0.1 * np.random.default_rng(6).standard_normal((len(rows), WIDTH))
    return unit(table_VD[rows] + noise_BD).astype(np.float32)


def test_it_finds_what_is_nearest_and_says_how_near(folder: Path) -> None:
    """Give or take what half precision changes."""
    table_VD = vectors(ROWS)
    query_BD = near(table_VD, [7, 4_711, ROWS])
    exact_BV = query_BD @ table_VD.T
    row_BK, part_BK = on_cpu(folder, table_VD)(query_BD, 400)
    assert row_BK.shape == part_BK.shape == (3, 400)
    found = CandidateBatch(row_BK, part_BK, [400, 0, 20], ROWS, HALF_ERROR)
    for candidates, row_K, part_K, exact_V in zip(found, row_BK, part_BK, exact_BV, strict=True):
        np.testing.assert_allclose(part_K, exact_V[row_K], atol=HALF_ERROR)
        assert len(set(row_K)) == 400
        assert (np.diff(part_K) <= 0).all()
        expected_K = np.argsort(-exact_V)[:368]  # as many more are fetched than are wanted
        assert set(expected_K) <= set(row_K)
        left_out_N = np.delete(exact_V, np.append(candidates.row_N, 0))
        assert left_out_N.max() <= candidates.floor
    assert len(list(found)[2].row_N) == 20


def test_a_fixed_number_is_found_as_any_other(folder: Path) -> None:
    table_VD = vectors(ROWS)
    query_BD = near(table_VD, [7, 4_711, ROWS])
    found = on_cpu(folder, table_VD, NEAREST_FEW)(query_BD, 0)
    expected = on_cpu(folder, table_VD)(query_BD, NEAREST_FEW_FOUND)
    np.testing.assert_allclose(found[1], expected[1], atol=HALF_ERROR)
    for row_K, expected_K, part_K in zip(found[0], expected[0], found[1], strict=True):
        is_clear_K = part_K > part_K[-1] + 2 * HALF_ERROR
        assert {*row_K[is_clear_K]} <= {*expected_K}
        assert is_clear_K.sum() > 200


@pytest.mark.parametrize("graph", [NEAREST, NEAREST_FEW])
def test_more_may_be_wanted_than_there_are_groups(folder: Path, graph: NearestGraph) -> None:
    """At the last level there are 33 or 528 groups."""
    table_VD = vectors(ROWS)
    query_BD = near(table_VD, [7, 4_711])
    row_BK, part_BK = on_cpu(folder, table_VD, graph)(query_BD, 2_048)
    part_BV = np.sort(-(query_BD.astype(np.float16) @ table_VD.T.astype(np.float16)))
    np.testing.assert_allclose(part_BK, -part_BV[:, : part_BK.shape[1]], atol=HALF_ERROR)
    assert row_BK.shape[1] == (graph.found or 2_048)
    assert all(len({*row_K}) == row_BK.shape[1] for row_K in row_BK)


def test_padding_is_never_a_candidate(folder: Path) -> None:
    """All vectors but the padding's point away from the query."""
    table_VD = -np.abs(vectors(40 * NEAREST_FILLED - 4))  # and three rows more that fill a group
    query_BD = unit(np.ones((1, WIDTH))).astype(np.float32)
    row_BK, part_BK = on_cpu(folder, table_VD)(query_BD, 8)
    assert 0 in row_BK
    row_BK, part_BK = without_padding(row_BK, part_BK)
    assert row_BK.shape == (1, 8)
    is_row_BK = row_BK > 0
    assert is_row_BK.tolist() == [[True] * 4 + [False] * 4]
    expected_N = np.sort(table_VD[1:] @ query_BD[0])[::-1][: is_row_BK.sum()]
    np.testing.assert_allclose(part_BK[is_row_BK], expected_N, atol=2 * HALF_ERROR)

    row_BK = np.array([[5, 0, 3, 0], [1, 7, 8, 9]], np.int32)
    part_BK = np.array([[0.5, 0, -0.1, 0], [0.4, 0.3, 0.2, 0.1]], np.float32)
    row_BK, part_BK = without_padding(row_BK, part_BK)
    assert row_BK.tolist() == [[5, 3, -1, -1], [1, 7, 8, 9]]
    assert part_BK[0, :2].tolist() == pytest.approx([0.5, -0.1])
    [one, _] = CandidateBatch(row_BK, part_BK, [4, 2], 9)
    assert (one.row_N.tolist(), one.floor) == ([5, 3], pytest.approx(-0.1))


def test_vectors_are_rounded_and_directions_stand_behind_them(folder: Path) -> None:
    table_VD, parts_VF = vectors(100), 7 * vectors(100)[::-1, :5]
    parts_VF[3] = 0
    inputs = {"vector": table_VD, "parts": parts_VF.astype(np.float16)}
    [row_VW] = open_on_cpu(folder / NEAREST_ROWS_GRAPH).run(["row"], inputs)
    np.testing.assert_array_equal(row_VW[:, :WIDTH], table_VD.astype(np.float16))
    length_V = np.linalg.norm(parts_VF, axis=1, keepdims=True)
    np.testing.assert_allclose(row_VW[:, WIDTH:], parts_VF / np.maximum(length_V, 1e-6), atol=1e-3)


def test_a_part_is_one_more_number_of_each_vector(folder: Path) -> None:
    """Found by the sum of both, each query with a weight of its own, 0 among them."""
    table_VD = vectors(ROWS)
    logit_V = np.random.default_rng(7).normal(-2, 1.5, ROWS + 1).astype(np.float32)
    table_VW = np.zeros((ROWS + 1, WIDTH + ALIGNED), np.float32)
    table_VW[:, :WIDTH], table_VW[:, WIDTH] = table_VD, logit_V
    table_VW[0, WIDTH] = NEVER
    query_BW = np.zeros((3, WIDTH + ALIGNED), np.float32)
    query_BW[:, :WIDTH] = near(table_VD, [7, 4_711, ROWS])
    query_BW[:, WIDTH] = weight_B = np.array([0.1, 0, 0.3], np.float32)
    row_BK, part_BK = on_cpu(folder, table_VW)(query_BW, 100)
    exact_BV = query_BW[:, :WIDTH] @ table_VD.T + weight_B[:, None] * logit_V
    exact_BV[:, 0] = -np.inf
    error = HALF_ERROR * (1 + 0.3 * float(np.abs(logit_V).max()))
    for row_K, part_K, exact_V in zip(row_BK, part_BK, exact_BV, strict=True):
        np.testing.assert_allclose(part_K, exact_V[row_K], atol=error)
        assert set(np.argsort(-exact_V)[:80]) <= set(row_K)
    assert 0 not in row_BK[[0, 2]]


def test_older_bundles_and_few_candidates_are_left_to_the_cpu(folder: Path) -> None:
    assert CudaNearest.can_search(folder, vectors(FEWEST))
    assert not CudaNearest.can_search(folder, vectors(FEWEST - 1))
    assert not CudaNearest.can_search(folder / "none", vectors(FEWEST))


@pytest.mark.skipif(has_cuda(), reason="shows what happens without CUDA")
def test_without_a_gpu_it_says_so(folder: Path) -> None:
    table_VD = vectors(100)
    with pytest.raises(NotReadyError, match="device cuda"):
        CudaNearest(folder, table_VD, Lane(Stream()))


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="needs an NVIDIA GPU")
def test_a_gpu_finds_the_same_in_batches_of_any_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_cuda()
    table_VD = vectors(ROWS)
    monkeypatch.setattr("service.engine.cuda_nearest.MOST_SCORES", 5 * len(table_VD))
    monkeypatch.setattr("service.engine.cuda_nearest.ROWS_AT_ONCE", 10_000)
    nearest = CudaNearest(folder, table_VD, Lane(Stream()))
    query_BD = near(table_VD, [*range(1, 20)])
    counts = [*range(0, 380, 20)]
    found = [*nearest.search(query_BD, counts)]
    row_BK, part_BK = on_cpu(folder, table_VD)(query_BD, 380)
    for candidates, count, row_K, part_K in zip(found, counts, row_BK, part_BK, strict=True):
        assert len(candidates.row_N) == count
        np.testing.assert_allclose(candidates.part_N, part_K[:count], atol=HALF_ERROR)
        assert len(set(candidates.row_N) & set(row_K[:count])) >= count - 2
    for place in (5, 11, 13):  # the last one wants more than a recorded graph finds
        [alone] = nearest.search(query_BD[place : place + 1], counts[place : place + 1])
        np.testing.assert_allclose(alone.part_N, found[place].part_N, atol=HALF_ERROR)
    nearest.let_go()


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="needs an NVIDIA GPU")
def test_recorded_graphs_find_the_same_from_any_thread_and_behind_others(folder: Path) -> None:
    expect_cuda()
    table_VD, lane = vectors(ROWS), Lane(Stream())
    nearest = CudaNearest(folder, table_VD, lane, takes_part=True)
    query_BD = near(table_VD, [*range(1, 257)])
    weight_B = np.linspace(0, 0.3, 256).astype(np.float32)
    query_BX, there = np.column_stack([query_BD, weight_B]), put_on_gpu(query_BD)
    logit_V = np.random.default_rng(7).normal(-2, 1.5, ROWS + 1).astype(np.float32)
    with ThreadPoolExecutor(3) as others:
        for is_told in (False, True):
            if is_told:
                nearest.set_part(logit_V)
            for size in (2, 5, 32, 64, 256):
                counts = [100] * size
                many = [others.submit(nearest.search, query_BX[:size], counts) for _ in range(9)]
                # More than a recorded graph finds.
                expected = nearest.search(query_BX[:size], [MANY_FOUND + 1] * size)
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
    assert find is not None
    yield from lane.end()
    return find()


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="needs an NVIDIA GPU")
def test_a_gpu_chooses_by_the_part_that_it_was_told_last(folder: Path) -> None:
    expect_cuda()
    table_VD = vectors(ROWS)
    nearest = CudaNearest(folder, table_VD, Lane(Stream()), takes_part=True)
    assert nearest.extent.takes_parts
    query_BD = near(table_VD, [*range(1, 20)])
    weight_B = np.linspace(0, 0.3, 19).astype(np.float32)
    query_BX = np.column_stack([query_BD, weight_B])
    counts = [100] * 19
    untold = nearest.search(query_BX, counts)
    assert not untold.with_parts
    plain = CudaNearest(folder, table_VD, Lane(Stream())).search(query_BD, counts)
    np.testing.assert_allclose(untold.part_BN, plain.part_BN, atol=HALF_ERROR)
    for seed in (7, 8):
        logit_V = np.random.default_rng(seed).normal(-2, 1.5, ROWS + 1).astype(np.float32)
        nearest.set_part(logit_V)
        told = nearest.search(query_BX, counts)
        assert told.with_parts
        exact_BV = query_BD @ table_VD.T + weight_B[:, None] * logit_V
        expect_best(told, exact_BV)
        without = nearest.search(query_BD, counts)
        assert not without.with_parts
        np.testing.assert_allclose(without.part_BN, plain.part_BN, atol=HALF_ERROR)


@pytest.mark.gpu
@pytest.mark.skipif(not has_cuda(), reason="needs an NVIDIA GPU")
def test_a_gpu_chooses_by_vectors_behind_vectors(folder: Path) -> None:
    expect_cuda()
    table_VD, parts_VF = vectors(ROWS), vectors(ROWS)[::-1, :5]
    nearest = CudaNearest(folder, table_VD, Lane(Stream()), parts_VF=7 * parts_VF)
    length_V = np.linalg.norm(parts_VF, axis=1, keepdims=True)
    parts_VF = parts_VF / np.maximum(length_V, 1e-6)
    query_BD = near(table_VD, [*range(1, 20)])
    weight_BF = np.random.default_rng(9).standard_normal((19, 5)).astype(np.float32)
    found = nearest.search(np.column_stack([query_BD, weight_BF]), [100] * 19)
    assert found.with_parts
    expect_best(found, query_BD @ table_VD.T + weight_BF @ parts_VF.T)


def expect_best(found: CandidateBatch, exact_BV: NDArray[np.float32]) -> None:
    exact_BV[:, 0] = -np.inf
    for candidates, exact_V in zip(found, exact_BV, strict=True):
        row_N = candidates.row_N
        np.testing.assert_allclose(candidates.part_N, exact_V[row_N], atol=candidates.error)
        assert set(np.argsort(-exact_V)[:80]) <= set(row_N)
        assert np.delete(exact_V, row_N).max() <= candidates.floor
