import numpy as np
import pytest
import torch

from export.bundle_writer import rank_popular
from export.item_vectors import build_tables, forget_untrained_ids, query_norm
from export.parity import CPU
from export.trained_run import TrainedRun
from training.batches import to_tensors


@pytest.fixture(scope="module")
def tables(run: TrainedRun) -> dict[str, np.ndarray]:
    forget_untrained_ids(run.recommender, run.training_events_V > 0)
    return build_tables(run.recommender, run.catalogue.popular_comment())


@torch.no_grad()
def test_summed_table_rows_are_the_events_that_the_model_computes(
    run: TrainedRun, tables: dict[str, np.ndarray]
) -> None:
    history = run.timelines.latest_windows(run.config.model.max_history)
    items, tensors = run.recommender.items, to_tensors(history, CPU)
    popular_BI = torch.from_numpy(run.catalogue.popular_comment()[history.video_BI])
    video_BID = items.video_ids(tensors.video_BI) + items.video_event_text(
        tensors.video_BI, popular_BI
    )
    comment_BJD = items.video_ids(tensors.comment_video_BJ) + items.comment_event_text(
        tensors.comment_video_BJ, tensors.comment_BJK
    )
    assert np.abs(tables["video_input_VD"][history.video_BI] - video_BID.numpy()).max() < 1e-5
    count_BJ1 = np.maximum(1, (history.comment_BJK > 0).sum(-1, keepdims=True))
    mean_BJD = tables["comment_input_CD"][history.comment_BJK].sum(2) / count_BJ1
    by_table_BJD = tables["comment_video_input_VD"][history.comment_video_BJ] + mean_BJD
    assert (count_BJ1 > 1).any()
    assert np.abs(by_table_BJD - comment_BJD.numpy()).max() < 1e-5


@torch.no_grad()
def test_rows_are_what_the_definitions_say(run: TrainedRun, tables: dict[str, np.ndarray]) -> None:
    items, width = run.recommender.items, run.config.model.width
    adapter = items.adapter.weight.numpy()
    merge, bias = items.merge.weight.numpy(), items.merge.bias.numpy()
    title_VD = items.title_VE.numpy() @ adapter.T
    comment_CD = items.comment_CE.numpy() @ adapter.T
    id_VD = items.gate.item() * items.id.weight.numpy()
    popular_VD = comment_CD[run.catalogue.popular_comment()]
    query_VD = id_VD + title_VD
    expected = {
        "video_input_VD": id_VD + np.concatenate([title_VD, popular_VD], 1) @ merge.T + bias,
        "comment_video_input_VD": id_VD + title_VD @ merge[:, :width].T + bias,
        "comment_input_CD": comment_CD @ merge[:, width:].T,
        "video_query_VD": query_VD,
        "video_candidate_VD": query_VD[1:] / np.linalg.norm(query_VD[1:], axis=1, keepdims=True),
        "comment_candidate_CD": comment_CD[1:]
        / np.linalg.norm(comment_CD[1:], axis=1, keepdims=True),
    }
    for name, expected_ND in expected.items():
        table_ND = tables[name][-len(expected_ND) :]  # candidates without their padding row
        assert table_ND.dtype == np.float32
        assert np.abs(table_ND - expected_ND).max() < 1e-5, name


def test_padding_rows_are_zero(tables: dict[str, np.ndarray]) -> None:
    for name in (
        "comment_input_CD",
        "video_query_VD",
        "video_candidate_VD",
        "comment_candidate_CD",
    ):
        assert not tables[name][0].any(), name


@torch.no_grad()
def test_a_cold_video_stands_by_its_text_alone(
    run: TrainedRun, tables: dict[str, np.ndarray]
) -> None:
    cold_V = np.flatnonzero(run.training_events_V == 0)[1:]
    trained_V = np.flatnonzero(run.training_events_V)
    assert len(cold_V) and len(trained_V)
    title_VD = run.recommender.items.titles(torch.arange(run.catalogue.video_count)).numpy()
    assert np.array_equal(tables["video_query_VD"][cold_V], title_VD[cold_V])
    assert (tables["video_query_VD"][trained_V] != title_VD[trained_V]).any(axis=1).all()


def test_the_query_norm_is_the_mean_length_without_padding() -> None:
    assert query_norm(np.array([[0, 0], [3, 4], [0, 1]], np.float32)) == 3
    assert query_norm(np.zeros((2, 2), np.float32)) == 1


def test_popular_videos_are_ranked_overall_and_by_category(run: TrainedRun) -> None:
    events_V = np.zeros(run.catalogue.video_count, np.int64)
    events_V[[7, 9, 30]] = 2, 5, 5
    popular = rank_popular(events_V, run.catalogue, None)
    overall = popular.overall_P.tolist()
    assert overall[:5] == [9, 30, 7, 1, 2]
    assert sorted(overall) == list(range(1, run.catalogue.video_count))
    for code in range(len(run.catalogue.categories)):
        rows = popular.by_category_Q[
            popular.category_start[code] : popular.category_start[code + 1]
        ]
        assert rows.tolist() == [row for row in overall if run.catalogue.category_V[row] == code]
