import numpy as np
import pytest

from service.engine.diversity import Caps, choose_diverse

NO_CAPS = Caps(np.zeros(4, np.int32), np.zeros(4, np.int32), None, None)
RELEVANCE_N = np.array([0.9, 0.8, 0.7, 0.05])
VECTOR_ND = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1]], np.float32)


@pytest.mark.parametrize(
    ("lambda_", "expected"),
    [
        (1.0, [0, 1, 2, 3]),
        # After 0: .4 - .5 = -.1, .35 - .3 = .05, .025 - 0 = .025: 2.
        # After 2: .4 - .5 = -.1, .025 - .4 = -.375: 1.
        (0.5, [0, 2, 1, 3]),
        # After 0: -1, -.6, 0: 3. After 3: -1, -.8: 2.
        (0.0, [0, 3, 2, 1]),
    ],
)
def test_mmr_trades_relevance_against_likeness(lambda_: float, expected: list[int]) -> None:
    chosen = choose_diverse(RELEVANCE_N, VECTOR_ND, NO_CAPS, count=4, lambda_=lambda_, window=4)
    assert chosen.tolist() == expected


def test_beyond_the_window_the_order_of_relevance_holds() -> None:
    chosen = choose_diverse(RELEVANCE_N, VECTOR_ND, NO_CAPS, count=4, lambda_=0.0, window=3)
    assert chosen.tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("window", [2, 4])
def test_caps_skip_full_groups_but_never_the_unknown_group(window: int) -> None:
    author_N = np.array([5, 5, 0, 0], np.int32)
    category_N = np.array([1, 2, 1, 3], np.int32)
    caps = Caps(author_N, category_N, max_per_author=1, max_per_category=1)
    chosen = choose_diverse(RELEVANCE_N, VECTOR_ND, caps, count=4, lambda_=1.0, window=window)
    assert chosen.tolist() == [0, 3]  # 1 repeats author 5, 2 repeats category 1


def test_no_more_than_asked_for_is_chosen() -> None:
    chosen = choose_diverse(RELEVANCE_N, VECTOR_ND, NO_CAPS, count=2, lambda_=1.0, window=4)
    assert chosen.tolist() == [0, 1]
