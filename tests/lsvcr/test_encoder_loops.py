"""What the loops of `_encoder.c` do with any input; `tests/export` compares them with the model."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from lsvcr.encoder import Encoder, EncoderShape
from lsvcr.history import NEVER, HistoryBatch, Timelines
from lsvcr.loops import count_lanes

VIDEOS, COMMENTS, HISTORY, KEPT = 30, 50, 9, 2
ERROR = 2e-5
"""Of the largest number: every set of instructions adds up in another order."""

Encoded = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def shape(**changes: object) -> EncoderShape:
    parts: dict[str, object] = {
        "width": 12,
        "history": HISTORY,
        "heads": 2,
        "feedforward": 20,
        "layers": 2,
        "norm": "pre",
        "encoder_kv": "previous",
        "mix": True,
        "pool": "additive",
    }
    return EncoderShape.model_validate({**parts, **changes})


SHAPES = {
    "as trained": shape(),
    "as in the paper": shape(norm="post", encoder_kv="input"),
    "alone, the last": shape(mix=False, pool="last", layers=1),
    "of whole vectors": shape(width=64, heads=2, feedforward=256),
    "narrower than a vector": shape(width=3, heads=3, feedforward=1),
    "narrower, and reads its input": shape(
        width=3, heads=3, feedforward=1, layers=3, encoder_kv="input"
    ),
}


def encoder(shape: EncoderShape, *, lanes: int | None = None) -> Encoder:
    random = np.random.default_rng(1)
    weight_W = random.normal(scale=shape.width**-0.5, size=shape.weights).astype(np.float32)
    return Encoder(shape, weight_W, tables(shape.width), lanes=lanes)


def tables(width: int) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(2)
    rows = {
        "video_input_VD": VIDEOS,
        "comment_video_input_VD": VIDEOS,
        "comment_input_CD": COMMENTS,
    }
    made = {
        name: random.normal(size=(count, width)).astype(np.float32) for name, count in rows.items()
    }
    made["comment_input_CD"][0] = 0
    return made


def histories(users: int, seed: int) -> HistoryBatch:
    random = np.random.default_rng(seed)
    videos_U, comments_U = random.integers(0, 2 * HISTORY, (2, users))
    comment_C = random.integers(1, COMMENTS, comments_U.sum())
    return Timelines.build(
        users=users,
        video_user_N=np.repeat(np.arange(users), videos_U),
        video_N=random.integers(1, VIDEOS, videos_U.sum()),
        video_time_N=random.integers(0, 10**9, videos_U.sum()),
        comment_user_C=np.repeat(np.arange(users), comments_U),
        comment_C=comment_C,
        comment_video_C=comment_C % (VIDEOS - 1) + 1,
        comment_time_C=random.integers(0, 10**9, comments_U.sum()),
        comments_per_event=KEPT,
    ).latest_windows(HISTORY)


def encode(
    encoder: Encoder, history: HistoryBatch, row_R: list[int] | None = None, *, states: bool = True
) -> Encoded:
    (users, slots), width = history.video_BI.shape, encoder.shape.width
    preference_BD = np.zeros((users, width), np.float32)
    share_BI = np.zeros((users, slots), np.float32)
    comment_slots = history.comment_last_BJ.shape[1] if states else 0
    state_BJD = np.zeros((users, comment_slots, width), np.float32)
    encoder.encode(
        history,
        np.arange(users) if row_R is None else np.array(row_R, np.int64),
        preference_BD=preference_BD,
        share_BI=share_BI,
        state_BJD=state_BJD,
    )
    return preference_BD, share_BI, state_BJD


def are_close(one: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    largest = max(1.0, float(np.abs(other).max(initial=0)))
    np.testing.assert_allclose(one, other, atol=ERROR * largest, rtol=0)


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=15, deadline=None)
@given(users=st.integers(1, 13), seed=st.integers(0, 10**6))
def test_together_or_alone_and_with_any_instructions_it_is_the_same(
    name: str, users: int, seed: int
) -> None:
    history = histories(users, seed)
    with_widest = encoder(SHAPES[name])
    together = encode(with_widest, history)
    for lanes in (4, 8, 16):
        for one, other in zip(
            encode(encoder(SHAPES[name], lanes=lanes), history), together, strict=True
        ):
            are_close(one, other)
    for user in range(users):
        for one, other in zip(encode(with_widest, history, [user]), together, strict=True):
            are_close(one[user], other[user])
            assert not np.delete(one, user, axis=0).any()  # nobody else's rows are touched
    preference_BD, share_BI, _ = together
    np.testing.assert_allclose(np.linalg.norm(preference_BD, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(share_BI.sum(1), 1, atol=1e-5)
    assert not share_BI[history.video_order_BI == NEVER].any()


def test_padding_and_strides_change_nothing() -> None:
    history, one = histories(5, 3), encoder(shape())
    padded = history.padded(rows=8, slots=HISTORY + 1)
    wide_BSF = np.zeros((8, HISTORY + 1, 3), np.int32)
    wide_BSF[:, :, 1] = padded.video_BI
    strided = HistoryBatch(wide_BSF[:, :, 1], *[*padded.arrays().values()][1:])
    expected = encode(one, history)
    for other in (padded, strided):
        preference_BD, share_BI, state_BJD = encode(one, other)
        slots, comment_slots = expected[1].shape[1], expected[2].shape[1]
        np.testing.assert_array_equal(preference_BD[:5], expected[0])
        np.testing.assert_array_equal(share_BI[:5, :slots], expected[1])
        np.testing.assert_array_equal(state_BJD[:5, :comment_slots], expected[2])


def test_without_states_the_videos_are_the_same() -> None:
    history, one = histories(6, 4), encoder(shape())
    both, alone = encode(one, history), encode(one, history, states=False)
    np.testing.assert_array_equal(alone[0], both[0])
    np.testing.assert_array_equal(alone[1], both[1])


def test_as_many_numbers_at_a_time_as_the_processor_can() -> None:
    assert encoder(shape()).lanes == count_lanes()
    assert encoder(shape(), lanes=4).lanes == 4
    assert encoder(shape(), lanes=10**6).lanes == count_lanes()


def damaged(history: HistoryBatch, name: str, value: int) -> HistoryBatch:
    arrays = {key: array.copy() for key, array in history.arrays().items()}
    arrays[name].reshape(len(arrays[name]), -1)[-1, 1 if arrays[name].ndim == 2 else KEPT] = value
    return HistoryBatch(*arrays.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("video", VIDEOS),
        ("video", -1),
        ("comment_video", VIDEOS),
        ("comment_video", -1),
        ("comment", COMMENTS),
        ("comment", -1),
    ],
)
def test_a_row_that_no_table_has_is_refused(name: str, value: int) -> None:
    history = histories(40, 5)
    users = np.flatnonzero(
        (history.video_order_BI[:, 1] < NEVER) & (history.comment_last_BJ[:, 1] < NEVER)
    )
    chosen = HistoryBatch(*(array[users] for array in history.arrays().values()))
    encode(encoder(shape()), chosen)
    with pytest.raises(IndexError):
        encode(encoder(shape()), damaged(chosen, name, value))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda history: encode(encoder(shape()), history, [len(history.video_BI)]),
        lambda history: encode(encoder(shape()), history, [-1]),
        lambda history: encode(encoder(shape(history=1)), history),  # longer than its positions
        lambda history: encode(
            encoder(shape()),
            HistoryBatch(
                history.video_BI,
                np.full_like(history.video_order_BI, NEVER),  # not even a start state
                *[*history.arrays().values()][2:],
            ),
        ),
        lambda history: encode(
            Encoder(shape(), np.zeros(shape().weights - 1, np.float32), tables(12)), history
        ),
    ],
)
def test_what_is_no_history_or_no_encoder_is_refused(
    wrong: Callable[[HistoryBatch], Encoded],
) -> None:
    with pytest.raises(IndexError):
        wrong(histories(8, 6))


@pytest.mark.parametrize("width", [11, 13])
def test_tables_of_another_width_are_refused(width: int) -> None:
    weight_W = np.zeros(shape().weights, np.float32)
    with pytest.raises(ValueError, match="items"):
        encode(Encoder(shape(), weight_W, tables(width)), histories(3, 7))


def test_nobody_is_nothing() -> None:
    preference_BD, share_BI, _ = encode(encoder(shape()), histories(3, 8), [])
    assert not preference_BD.any()
    assert not share_BI.any()


@pytest.mark.parametrize(
    "changes",
    [{"layers": 0}, {"layers": 17}, {"width": 0}, {"heads": 0}, {"norm": "none"}, {"depth": 1}],
)
def test_a_shape_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        shape(**changes)


def test_heads_share_the_width() -> None:
    with pytest.raises(IndexError):
        _ = shape(heads=5).weights
