import numpy as np
import pytest
from tiny_bundle_builder import encode, prefer_comments

from lsvcr.history import HistoryBatch, Timelines
from service.engine.encoder_session import RUN, CommentHead, CpuEncoder
from service.engine.ranker import Ranker

USERS = 2 * RUN + 3


def random_histories(ranker: Ranker, seed: int) -> HistoryBatch:
    """Users with 0 to 12 events a side, where 6 are read."""
    random = np.random.default_rng(seed)
    videos_U, comments_U = random.integers(0, 13, (2, USERS))
    comment_C = random.integers(1, 201, comments_U.sum())
    return Timelines.build(
        users=USERS,
        video_user_N=np.repeat(np.arange(USERS), videos_U),
        video_N=random.integers(1, 51, videos_U.sum()),
        video_time_N=random.integers(0, 10**9, videos_U.sum()),
        comment_user_C=np.repeat(np.arange(USERS), comments_U),
        comment_C=comment_C,
        comment_video_C=ranker.bundle.catalogue.comment_video_C[comment_C],
        comment_time_C=random.integers(0, 10**9, comments_U.sum()),
        comments_per_event=ranker.bundle.manifest.comments_per_event,
    ).latest_windows(ranker.bundle.manifest.max_history)


@pytest.mark.parametrize("seed", range(3))
def test_runs_of_a_graph_yield_what_the_whole_batch_would(ranker: Ranker, seed: int) -> None:
    history = random_histories(ranker, seed)
    tables = ranker.bundle.tables
    preference_BD, state_BJD, share_BI = encode(history, tables)
    encoding = CpuEncoder(ranker.bundle).encode(history, with_states=True)
    np.testing.assert_allclose(encoding.video_preference_BD, preference_BD, atol=1e-5)
    np.testing.assert_allclose(encoding.comment_state_BJD, state_BJD, atol=1e-5)
    np.testing.assert_allclose(encoding.video_share_BI, share_BI, atol=1e-5)

    target_BTD = tables["video_query_VD"][np.arange(USERS * 4).reshape(USERS, 4) % 50 + 1]
    actual = CommentHead(ranker.bundle).prefer_comments(
        state_BJD, history.comment_last_BJ, target_BTD
    )
    expected = prefer_comments(state_BJD, history.comment_last_BJ, target_BTD)
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(actual[1], expected[1], atol=1e-5)


def test_without_comments_the_videos_are_the_same(ranker: Ranker) -> None:
    history = random_histories(ranker, 7)
    both = CpuEncoder(ranker.bundle).encode(history, with_states=True)
    alone = CpuEncoder(ranker.bundle).encode(history, with_states=False)
    np.testing.assert_array_equal(alone.video_preference_BD, both.video_preference_BD)
    assert alone.comment_state_BJD.shape[1] == 0
