"""Popular orders against the slow way: everything put in order at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsvcr.bundle import PopularVideos
from lsvcr.popularity import PriorLayer, PriorNetwork
from service.engine import popularity, popularity_prior
from service.engine.popularity import PopularItems
from service.engine.popularity_prior import PopularityPrior

derandomized = settings(max_examples=100, derandomize=True)


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows already are more than are looked at first, or put in order beforehand."""
    for module in (popularity, popularity_prior):
        monkeypatch.setattr(module, "FIRST_LOOK", 2)
        monkeypatch.setattr(module, "WIDENING", 3)
    monkeypatch.setattr(popularity_prior, "FIRST", 12)


@derandomized
@given(st.integers(1, 40), st.randoms())
def test_videos_stand_in_the_overall_list_then_in_categories_then_in_the_catalogue(
    videos: int, random: "st.random.Random"
) -> None:
    rows = range(1, videos + 1)
    overall, by_category = (random.sample(rows, random.randint(0, videos)) for _ in range(2))
    popular = PopularVideos(
        np.array(overall, np.int32),
        np.array(by_category, np.int32),
        np.array([0, len(by_category)]),
        np.zeros((0, videos + 1), np.float32),
    )
    items = PopularItems.of_videos(popular, videos + 1)
    assert items.row_P.tolist() == [*dict.fromkeys([*overall, *by_category, *rows])]
    assert items.place_V[items.row_P].tolist() == [*range(videos)]
    assert items.place_V[0] == videos


def test_deciles_are_tenths_of_the_order() -> None:
    items = PopularItems.of(np.arange(20, 0, -1, dtype=np.int32))
    assert items.deciles(np.array([20, 19, 18, 10, 2, 1])).tolist() == [1, 1, 2, 6, 10, 10]


logits = st.lists(
    st.sampled_from([0.0, -0.0, 1.5, -1.5, 1e-40, -1e-40]) | st.floats(-9, 9, width=32),
    min_size=1,
    max_size=60,
)


@derandomized
@given(logits, st.randoms(), st.integers(1, 70), st.integers(2, 5))
def test_the_prior_orders_as_one_stable_sort_of_everything(
    values: list[float], random: "st.random.Random", wanted: int, step: int
) -> None:
    rows = [*range(1, len(values) + 1)]
    random.shuffle(rows)
    overall = PopularItems.of(np.array(rows, np.int32))
    prior = PopularityPrior.of(np.array([99.0, *values], np.float32), overall)
    expected = sorted(rows, key=lambda row: -values[row - 1])
    proposed = prior.propose(wanted, weight=2.0)
    assert proposed.row_N.tolist() == expected[:wanted]
    is_all = wanted >= len(rows)
    floor = -np.inf if is_all else 2.0 * float(np.float32(values[expected[wanted] - 1]))
    assert proposed.floor == floor
    allowed = [row for row in expected if row % step][:wanted]
    best = prior.best(wanted, lambda row_N: row_N % step > 0)
    assert best.row_K.tolist() == allowed
    assert best.parts["prior"].tolist() == [np.float32(values[row - 1]) for row in allowed]
    known = min(len(rows), popularity_prior.FIRST)
    assert prior.place_V[expected[:known]].tolist() == [*range(known)]
    assert all(prior.place_V[[0, *expected[known:]]] == known)


@pytest.mark.parametrize("videos", [1, 511, 512, 513, 5000])
def test_a_videos_logit_depends_on_its_counts_alone(videos: int) -> None:
    """Bit for bit: whoever computes some videos again agrees with who computes all of them."""
    random = np.random.default_rng(videos)
    network = PriorNetwork(
        direct_H=random.normal(size=8).tolist(),
        layers=[
            PriorLayer(
                weight_OI=random.normal(size=(wide, deep)).tolist(),
                bias_O=random.normal(size=wide).tolist(),
            )
            for wide, deep in ((32, 8), (32, 32), (1, 32))
        ],
    )
    count_HV = random.pareto(1.0, (8, videos)).astype(np.float32)
    logit_V = network.logits(count_HV)
    some_N = np.sort(random.choice(videos, min(videos, 30), replace=False))
    for row_N in (some_N, some_N[:1], some_N[::-1]):
        assert np.array_equal(network.logits_of(row_N, count_HV[:, row_N]), logit_V[row_N])
