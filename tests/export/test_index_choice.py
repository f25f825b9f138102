from pathlib import Path

import numpy as np
import pytest

from export.candidate_index import (
    NPROBE_STEPS,
    IndexOptions,
    build_index,
    recall_by_score,
    write_index,
)
from lsvcr.bundle import IndexEntry
from lsvcr.index_file import check_index_file
from service.engine.candidate_index import CandidateIndex

FORCE_LISTS = IndexOptions(flat_below=1, nlist=32)


def unit_vectors(count: int, width: int = 16, seed: int = 0) -> np.ndarray:
    """Mostly in three dimensions, so that lists separate near from far."""
    vector_ND = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    vector_ND[:, 3:] *= 0.05
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


def candidate_table(count: int) -> np.ndarray:
    return np.concatenate([np.zeros((1, 16), np.float32), unit_vectors(count)])


def exact_rows(candidate_ND: np.ndarray, query_QD: np.ndarray, best: int) -> np.ndarray:
    """The slow clear way: sort all scores; rows start at 1."""
    return np.argsort(-(query_QD @ candidate_ND[1:].T), axis=1)[:, :best] + 1


def test_a_flat_index_finds_what_sorting_finds() -> None:
    candidate_ND, query_QD = candidate_table(300), unit_vectors(20, seed=1)
    index, entry = build_index(candidate_ND, [query_QD], IndexOptions())
    assert entry == IndexEntry(kind="flat", recall_at_100=1.0)
    _, row_QK = index.search(query_QD, 100)
    assert np.array_equal(row_QK, exact_rows(candidate_ND, query_QD, 100))


def test_inverted_lists_have_the_recall_that_is_stated_when_they_are_served(tmp_path: Path) -> None:
    candidate_ND, query_QD = candidate_table(3000), unit_vectors(50, seed=1)
    index, entry = build_index(candidate_ND, [query_QD], FORCE_LISTS)
    assert entry.kind == "ivf_pq" and index.ntotal == 3000 and index.nprobe == entry.nprobe
    expected_QK = exact_rows(candidate_ND, query_QD, 100)
    write_index(index, tmp_path / "video.faiss")

    def recall(nprobe: int) -> float:
        probed = entry.model_copy(update={"nprobe": nprobe})
        served = CandidateIndex.load(tmp_path / "video.faiss", probed, candidate_ND)
        pairs = zip(served.search(query_QD, [100] * 50), expected_QK, strict=True)
        return float(np.mean([len(set(found.row_N) & set(best)) / 100 for found, best in pairs]))

    assert entry.nprobe is not None and 1 < entry.nprobe < 32  # else the test shows nothing
    assert entry.recall_at_100 == pytest.approx(recall(entry.nprobe))
    assert entry.recall_at_100 >= 0.99 > recall(entry.nprobe - max(1, entry.nprobe // NPROBE_STEPS))


def test_lists_that_all_would_have_to_be_probed_give_way_to_exact_search() -> None:
    random_ND = np.random.default_rng(2).normal(size=(2000, 16)).astype(np.float32)
    random_ND /= np.linalg.norm(random_ND, axis=1, keepdims=True)
    _, entry = build_index(random_ND, [-random_ND[:50]], FORCE_LISTS)
    assert entry == IndexEntry(kind="flat", recall_at_100=1.0)


def test_every_set_of_queries_gets_the_recall() -> None:
    candidate_ND = candidate_table(3000)
    sets = [np.repeat(candidate_ND[[1]], 20, axis=0), unit_vectors(50, seed=1)]
    of_both = build_index(candidate_ND, sets, FORCE_LISTS)[1]
    of_each = [build_index(candidate_ND, [queries], FORCE_LISTS)[1] for queries in sets]
    assert of_both.nprobe == max(entry.nprobe or 0 for entry in of_each)
    assert (
        0.99
        <= of_both.recall_at_100
        <= min(entry.recall_at_100 for entry in of_each if entry.nprobe == of_both.nprobe)
    )


def test_recall_counts_equal_candidates_as_equal() -> None:
    exact_QK = np.array([[0.9, 0.5, 0.5, 0.5]], np.float32)
    assert recall_by_score(exact_QK, np.array([[0.9, 0.5, 0.5, 0.5]], np.float32)) == 1
    assert recall_by_score(exact_QK, np.array([[0.9, 0.5, 0.4, 0.3]], np.float32)) == 0.5


def test_recall_counts_what_was_not_found_as_missing() -> None:
    nothing = np.finfo(np.float32).min  # FAISS's score where lists hold too few
    found_QK = np.array([[0.9, nothing]], np.float32)
    assert recall_by_score(np.array([[0.9, -0.8]], np.float32), found_QK) == 0.5


def test_no_candidates_make_an_empty_flat_index(tmp_path: Path) -> None:
    empty = np.zeros((1, 16), np.float32)
    index, entry = build_index(empty, [unit_vectors(3)], FORCE_LISTS)
    assert entry.kind == "flat" and index.ntotal == 0
    write_index(index, tmp_path / "comment.faiss")
    check_index_file(tmp_path / "comment.faiss", entry, rows=0, width=16)


@pytest.mark.parametrize("equal", [False, True])  # many comments share a text: lists stay empty
def test_lists_are_written_as_a_reader_expects_them(tmp_path: Path, equal: bool) -> None:
    table_ND = candidate_table(3000)
    if equal:
        table_ND[9:] = table_ND[8]
    index, entry = build_index(table_ND, [table_ND[8:9]], FORCE_LISTS)
    write_index(index, tmp_path / "video.faiss")
    assert entry.kind == "ivf_pq"
    check_index_file(tmp_path / "video.faiss", entry, rows=3000, width=16)
    content = (tmp_path / "video.faiss").read_bytes()
    assert (b"sprs" if equal else b"full") in content  # else the test shows nothing
