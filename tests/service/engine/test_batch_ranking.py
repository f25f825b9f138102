"""A batch at once against one full, exact scan for each of its queries."""

import numpy as np
import pytest
from msgspec import structs
from tiny_bundle_builder import TEMPERATURE, unit

from service.engine import batch_ranking, popularity_prior
from service.engine.batch_ranking import BatchRanking, PlainQuery
from service.engine.candidate_index import Candidates
from service.engine.popularity import PopularItems
from service.engine.popularity_prior import PopularityPrior
from service.engine.scoring import Scorer, nothing_beside
from service.engine.video_conditions import allow_except

ROWS = 5001


def invent(strength: float) -> tuple[np.ndarray, PopularityPrior | None]:
    """Candidates of which 300 are copies of one, and a prior; none where it has no strength."""
    random = np.random.default_rng(3)
    candidate_ND = unit(random.standard_normal((ROWS, 16)))
    candidate_ND[[0, *range(4000, 4300)]] = [[0] * 16, *[candidate_ND[17]] * 300]
    if not strength:
        return candidate_ND, None
    logit_V = (strength * random.exponential(1, ROWS)).astype(np.float32)
    logit_V[4000:4300] = logit_V[17]
    overall = PopularItems.of(np.arange(1, ROWS, dtype=np.int32))
    return candidate_ND, PopularityPrior.of(logit_V, overall)


def only_even(row_N: np.ndarray) -> np.ndarray:
    return row_N % 2 == 0


def ask(candidate_ND: np.ndarray, row: int, count: int, fetch: int) -> PlainQuery:
    """Somebody whose taste is one row's vector, who has seen it, and to whom the index answers."""
    cosine_N = candidate_ND @ candidate_ND[row]
    cosine_N[0] = -np.inf
    order_N = np.argsort(-cosine_N, kind="stable")[: ROWS - 1]
    floor = -np.inf if fetch >= ROWS - 1 else float(cosine_N[order_N[fetch - 1]])
    return PlainQuery(
        count=count,
        preference_D=candidate_ND[row],
        weight=1.0 if row % 3 else 0.25,
        excluded_E=np.array([row, 5, row]),
        matching=only_even if row % 5 == 0 else None,
        fetched=Candidates(order_N[:fetch].astype(np.int64), cosine_N[order_N[:fetch]], floor),
    )


def best_by_scan(
    candidate_ND: np.ndarray, prior: PopularityPrior | None, query: PlainQuery
) -> list[int]:
    def beside(row_N: np.ndarray) -> dict[str, np.ndarray]:
        assert prior is not None
        return prior.parts(row_N, weight=query.weight)

    scorer = Scorer(
        candidate_ND,
        TEMPERATURE,
        query.preference_D,
        nothing_beside if prior is None else beside,
    )
    allows = allow_except(query.excluded_E, query.matching)
    row_N = np.arange(1, ROWS)
    return scorer.rank(row_N[allows(row_N)]).row_K[: query.count].tolist()


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 30.0])
def test_all_rows_at_once_rank_as_one_scan_each(strength: float) -> None:
    candidate_ND, prior = invent(strength)
    counts = (1, 20, 310, ROWS)
    queries = [ask(candidate_ND, row, counts[row % 4], 1) for row in (17, 90, 4500, 25, 4001, 7)]
    ranked = BatchRanking(candidate_ND, TEMPERATURE).rank_all(queries, prior)
    for query, best in zip(queries, ranked, strict=True):
        assert best.row_K.tolist() == best_by_scan(candidate_ND, prior, query)


class CountedTable(np.ndarray):
    """A table that knows the largest number of rows that was ever gathered from it at once."""

    gathered = 0

    def __getitem__(self, key: object) -> np.ndarray:
        taken = np.asarray(self)[key]  # type: ignore[index]
        CountedTable.gathered = max(CountedTable.gathered, len(np.atleast_1d(taken)))
        return taken


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_batch_gathers_no_vectors_that_were_gathered_for_its_prior_before(
    strength: float,
) -> None:
    candidate_ND, prior = invent(strength)
    _, next_prior = invent(2.0)
    assert next_prior is not None
    queries = [ask(candidate_ND, 17, 20, 400)]
    for is_small in (True, False):
        ranking = BatchRanking(candidate_ND.view(CountedTable), TEMPERATURE)
        priors = [one for one in (prior, next_prior) if is_small or one is not None]
        for one in priors:
            CountedTable.gathered = 0
            ranking.prepare_all(one) if is_small else ranking.prepare_candidates(one)
            assert CountedTable.gathered > 1000
        CountedTable.gathered = 0
        for one in priors:  # the one before goes on being asked for until the next one is there
            ranking.rank_all(queries, one) if is_small else ranking.rank_candidates(queries, one)
        assert CountedTable.gathered < 1000


def test_gathered_vectors_go_with_their_prior() -> None:
    candidate_ND, prior = invent(1.0)
    ranking = BatchRanking(candidate_ND, TEMPERATURE)
    ranking.prepare_all(prior)
    assert len(ranking._compared) == 1
    del prior
    assert len(ranking._compared) == 0


@pytest.mark.parametrize("first", [ROWS, 40])
@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 30.0])
def test_candidates_rank_as_one_scan_each_or_say_that_they_cannot(
    strength: float, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (popularity_prior, batch_ranking):
        monkeypatch.setattr(module, "FIRST", first)
    monkeypatch.setattr(batch_ranking, "POPULAR", 64)
    monkeypatch.setattr(batch_ranking, "POPULAR_OF_ROOT", 0)
    candidate_ND, prior = invent(strength)
    queries = [
        ask(candidate_ND, row, count, fetch)
        for row in (17, 90, 4500, 25, 4001)
        for count, fetch in ((5, 40), (20, 400), (310, 2500), (20, ROWS))
    ]
    ranking = BatchRanking(candidate_ND, TEMPERATURE)
    _, other_prior = invent(2.0)
    assert other_prior is not None
    ranking.prepare_candidates(other_prior)  # what is gathered for one prior is used for no other
    ranked = ranking.rank_candidates(queries, prior)
    for query, best in zip(queries, ranked, strict=True):
        if best is not None:
            assert best.row_K.tolist() == best_by_scan(candidate_ND, prior, query)
        assert best is not None or query.fetched.floor > -np.inf
    assert sum(best is not None for best in ranked) >= len(queries) // 4


@pytest.mark.parametrize("error", [0.0, 0.003])
@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_what_the_prior_had_a_say_in_is_ranked_alone(strength: float, error: float) -> None:
    """Nothing popular is compared besides, in a batch with others as alone."""
    random = np.random.default_rng(1)
    candidate_ND, prior = invent(strength)
    assert prior is not None
    queries, others = [], []
    for row in (17, 90, 4500, 25, 4001):
        for count, fetch in ((5, 40), (20, 400), (310, 2500), (20, ROWS)):
            plain = ask(candidate_ND, row, count, fetch)
            weight = plain.weight * TEMPERATURE
            part_N = candidate_ND @ plain.preference_D + np.float32(weight) * prior.logit_V
            part_N[0] = -np.inf
            order_N = np.argsort(-part_N, kind="stable")[: ROWS - 1]
            floor = -np.inf if fetch >= ROWS - 1 else float(part_N[order_N[fetch - 1]])
            row_N = order_N[:fetch]
            found_N = part_N[row_N] + error * random.uniform(-1, 1, len(row_N))
            found_N = found_N.astype(np.float32)
            chosen = Candidates(row_N, found_N, floor + error, error, with_parts=True)
            queries.append(structs.replace(plain, fetched=chosen))
            others.append(plain)
    ranking = BatchRanking(candidate_ND, TEMPERATURE)
    ranked = ranking.rank_candidates(queries, prior)
    assert not ranking._compared
    mixed = BatchRanking(candidate_ND, TEMPERATURE).rank_candidates([*queries, *others], prior)
    for query, best, again in zip(queries, ranked, mixed, strict=False):
        assert (best is None) == (again is None)
        if best is not None and again is not None:
            expected = best_by_scan(candidate_ND, prior, query)
            assert best.row_K.tolist() == again.row_K.tolist() == expected
        assert best is not None or query.fetched.floor > -np.inf
    assert sum(best is not None for best in ranked) >= len(queries) // 2
