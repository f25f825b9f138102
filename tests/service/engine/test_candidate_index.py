import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from engine_questions import OnlyVideos
from tiny_bundle_builder import unit, write_index, write_lists, write_short_lists

from lsvcr.bundle import IndexEntry
from service.engine.candidate_index import CandidateBatch, CandidateIndex
from service.engine.retrieval import Retriever
from service.engine.scoring import Scorer
from service.engine.video_conditions import allow_except

FLAT = IndexEntry(kind="flat", recall_at_100=1.0)
WIDTH = 8


def vectors(rows: int) -> np.ndarray:
    table = unit(np.random.default_rng(3).standard_normal((rows + 1, WIDTH)))
    table[0] = 0
    return table


def test_search_finds_the_nearest_rows_and_the_floor_of_the_rest(tmp_path: Path) -> None:
    table_ND = vectors(100)
    write_index(tmp_path / "x", table_ND)
    index = CandidateIndex.load(tmp_path / "x", FLAT, table_ND)
    [found] = index.search(table_ND[7:8], [5])
    similarity_N = table_ND @ table_ND[7]
    expected = np.argsort(-similarity_N)[:5]
    assert found.row_N.tolist() == expected.tolist()
    assert found.floor == pytest.approx(similarity_N[expected[-1]], abs=1e-6)
    [all_found] = index.search(table_ND[7:8], [500])
    assert (len(all_found.row_N), all_found.floor) == (100, -np.inf)


def test_queries_of_one_search_get_as_many_as_each_asks_for(tmp_path: Path) -> None:
    table_ND = vectors(100)
    write_index(tmp_path / "x", table_ND)
    index = CandidateIndex.load(tmp_path / "x", FLAT, table_ND)
    few, none, all_found = index.search(table_ND[1:4], [2, 0, 100])
    [alone] = index.search(table_ND[1:2], [2])
    assert (few.row_N.tolist(), few.floor) == (alone.row_N.tolist(), alone.floor)
    assert (len(none.row_N), none.floor) == (0, np.inf)
    assert (len(all_found.row_N), all_found.floor) == (100, -np.inf)


def test_a_search_takes_one_thread_wherever_the_index_was_loaded(tmp_path: Path) -> None:
    table_ND = vectors(100)
    write_index(tmp_path / "x", table_ND)
    index = CandidateIndex.load(tmp_path / "x", FLAT, table_ND)

    def threads_after_a_search() -> int:
        faiss.omp_set_num_threads(2)
        index.search(table_ND[1:2], [3])
        threads: int = faiss.omp_get_max_threads()
        return threads

    with ThreadPoolExecutor(1) as serving:
        assert serving.submit(threads_after_a_search).result() == 1


def test_inverted_lists_are_probed_as_the_manifest_says(tmp_path: Path) -> None:
    table_ND = vectors(1000)
    write_lists(tmp_path / "x", table_ND, 16)
    for nprobe, is_exact in ((16, True), (1, False)):
        entry = IndexEntry(kind="ivf_flat", nprobe=nprobe, recall_at_100=1.0)
        index = CandidateIndex.load(tmp_path / "x", entry, table_ND)
        [found] = index.search(table_ND[7:8], [200])
        expected = np.argsort(-(table_ND[1:] @ table_ND[7]))[:200] + 1
        assert (set(found.row_N) == set(expected)) == is_exact


def test_too_few_probed_candidates_lead_to_a_full_scan(tmp_path: Path) -> None:
    table_ND = vectors(1000)
    write_lists(tmp_path / "x", table_ND, 16)
    entry = IndexEntry(kind="ivf_flat", nprobe=1, recall_at_100=1.0)
    index = CandidateIndex.load(tmp_path / "x", entry, table_ND)
    retriever = Retriever(OnlyVideos(index), "video")
    [fetched] = index.search(table_ND[7:8], [400])
    assert len(fetched.row_N) < 400
    scorer = Scorer(table_ND, 1.0, table_ND[7])
    ranked = asyncio.run(retriever.best(scorer, 400, allow_except(np.array([7])), fetched))
    score_N = table_ND @ table_ND[7]
    score_N[[0, 7]] = -np.inf
    assert ranked.row_K.tolist() == np.argsort(-score_N)[:400].tolist()


def test_an_empty_index_finds_nothing() -> None:
    [found] = CandidateIndex.empty(WIDTH).search(np.zeros((1, WIDTH), np.float32), [5])
    assert len(found.row_N) == 0


SHORT = IndexEntry(kind="ivf_pq", nprobe=16, recall_at_100=1.0)


@pytest.mark.parametrize("rows", [1000, 300])  # fewer than are fetched more than wanted
def test_shortened_vectors_lead_to_exact_scores_best_first(tmp_path: Path, rows: int) -> None:
    table_ND = vectors(rows)
    write_short_lists(tmp_path / "x", table_ND, 16)
    index = CandidateIndex.load(tmp_path / "x", SHORT, table_ND)
    for found, query_D in zip(index.search(table_ND[5:9], [50] * 4), table_ND[5:9], strict=True):
        similarity_N = table_ND @ query_D
        similarity_N[0] = -np.inf
        expected = np.argsort(-similarity_N)[:50]
        assert found.row_N.tolist() == expected.tolist()
        assert found.part_N == pytest.approx(similarity_N[expected], abs=1e-6)
        assert found.floor == found.part_N[-1]
    [all_found] = index.search(table_ND[5:6], [rows])
    assert (len(all_found.row_N), all_found.floor) == (rows, -np.inf)


def test_shortened_vectors_are_probed_as_the_manifest_says(tmp_path: Path) -> None:
    table_ND = vectors(1000)
    write_short_lists(tmp_path / "x", table_ND, 16)
    entry = SHORT.model_copy(update={"nprobe": 1})
    index = CandidateIndex.load(tmp_path / "x", entry, table_ND)
    few, many = index.search(table_ND[7:9], [400, 10])
    assert 10 < len(few.row_N) < 400 and few.row_N[0] == 7
    assert few.floor == few.part_N[-1]
    assert (len(many.row_N), many.row_N[0]) == (10, 8)


def test_searches_joined_are_as_wrong_as_the_worst_of_them() -> None:
    """The first was for nobody's sake; of the second, the first query weighs no parts."""
    row_BN, part_BN = np.array([[3, 1], [2, -1]]), np.array([[0.9, 0.2], [0.7, 0]], np.float32)
    nothing = CandidateBatch.nothing([0], 9)
    found = CandidateBatch(row_BN, part_BN, [2, 2], 9, error=0.1, with_parts=True)
    none, two, one = CandidateBatch.join([nothing, found])
    assert [found.row_N.tolist() for found in (none, two, one)] == [[], [3, 1], [2]]
    assert (two.floor, one.floor) == (pytest.approx(0.3), pytest.approx(0.8))
    assert none.floor == np.inf
    assert two.with_parts and one.with_parts
