"""The whole score, the sum of all its parts, against a plain computation of all of it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_questions import (
    ExactIndex,
    OnlyVideos,
    answer,
    answer_all,
    ask_comments,
    ask_videos,
    comment_preference,
    encoder_batch,
    history,
    matches,
    video_preference,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from numpy.typing import NDArray
from tiny_bundle_builder import (
    PRIOR,
    PROFILE,
    REPEAT,
    SEED_HOUR,
    TEMPERATURE,
    prior_logit,
    unit,
    write_index,
)

from lsvcr.bundle import Bundle, IndexEntry
from lsvcr.catalogue import item_hashes
from service.engine import retrieval
from service.engine.bundle_opening import open_warm
from service.engine.candidate_index import CandidateIndex
from service.engine.comment_ranking import CommentRanking
from service.engine.engine import LocalBundle
from service.engine.popularity import PopularItems
from service.engine.popularity_prior import CountsByHash, LiveCounts, PopularityPrior
from service.engine.queries import (
    Answer,
    CommentQuery,
    Diversity,
    EventHistory,
    FeedQuery,
    VideoFilter,
)
from service.engine.ranker import Ranker
from service.engine.retrieval import Retriever
from service.engine.scoring import Scorer
from service.engine.video_conditions import allow_except
from service.engine.video_parts import Repeats, VideoParts

slow = settings(max_examples=60, derandomize=True)
video_names = st.sampled_from([f"v{number}" for number in range(1, 51)])
comment_names = st.sampled_from([f"c{number}" for number in range(1, 201)])
filters = st.none() | st.builds(
    VideoFilter, categories_any=st.frozensets(st.sampled_from(["k0", "k1", "k2"]), max_size=2)
)
live_counts = st.builds(
    LiveCounts,
    hour=st.integers(SEED_HOUR - 1, SEED_HOUR + 900),
    by_hour=st.dictionaries(
        st.integers(SEED_HOUR - 3, SEED_HOUR + 1000),
        st.dictionaries(video_names, st.integers(1, 500), max_size=5).map(
            lambda counts: (item_hashes([*counts, "gone"]), np.array([*counts.values(), 99]))
        ),
        max_size=4,
    ),
)


def prior_logits(bundle: Bundle, counts: LiveCounts) -> list[float]:
    """Row by row and hour by hour, as docs/model.md says it."""
    logits = [0.0] * 51
    for row in range(1, 51):
        decayed = []
        for number, half_life_days in enumerate(PRIOR.half_lives_days):
            half_life = 24 * half_life_days
            age = max(0, counts.hour - SEED_HOUR)
            count = bundle.popular.decayed_count_HV[number, row] * 2 ** (-age / half_life)
            for hour, (hash_E, count_E) in counts.by_hour.items():
                if SEED_HOUR <= hour < counts.hour:
                    here = count_E[bundle.catalogue.video_index.rows(hash_E) == row].sum()
                    count += here * 2 ** (-(counts.hour - hour) / half_life)
            decayed.append(float(count))
        logits[row] = prior_logit(decayed)
    return logits


def profile_logits(bundle: Bundle, events: EventHistory, rows: list[int]) -> list[float]:
    """The mean of the newest three comment events' comments, by cosine."""
    table_CF = bundle.comment_profile_CF
    assert table_CF is not None
    newest_JK = encoder_batch(bundle, events).comment_BJK[0][-PROFILE.events :]
    read = [int(row) for row in newest_JK.ravel() if row]
    if not read:
        return [0.0] * len(rows)
    mean_F = np.mean([table_CF[row].astype(np.float64) for row in read], axis=0)
    scale = PROFILE.scale + PROFILE.scale_by_count * np.log(1 + len(read))
    return [scale * cosine(mean_F, table_CF[row].astype(np.float64)) for row in rows]


def cosine(x_F: NDArray[np.float64], y_F: NDArray[np.float64]) -> float:
    return float(x_F @ y_F / np.linalg.norm(x_F) / np.linalg.norm(y_F))


def by_score(rows: list[int], scores: list[float]) -> list[int]:
    score = dict(zip(rows, scores, strict=True))
    return sorted(rows, key=lambda row: (-round(score[row], 4), row))


@slow
@given(
    st.lists(video_names, min_size=1, max_size=12),
    st.lists(video_names, max_size=12),
    filters,
    live_counts,
    st.integers(1, 60),
    st.sampled_from([1.0, 1.0, 0.0, 0.5, 3.0]),
    st.booleans(),
)
def test_videos_are_ranked_as_by_a_full_scan_of_the_whole_score(
    whole_ranker: Ranker,
    seen: list[str],
    excluded: list[str],
    condition: VideoFilter | None,
    counts: LiveCounts,
    k: int,
    weight: float,
    exclude_seen: bool,
) -> None:
    bundle, events = whole_ranker.bundle, history(seen)
    whole_ranker.update_popularity(counts)
    rows = [
        row
        for row in range(1, 51)
        if f"v{row}" not in excluded
        and not (exclude_seen and f"v{row}" in seen)
        and (condition is None or matches(bundle, row, condition))
    ]
    logits = [weight * logit for logit in prior_logits(bundle, counts)]
    cosine_V = bundle.tables["video_candidate_VD"] @ video_preference(bundle, events)
    repeats = [REPEAT * (f"v{row}" in seen) for row in range(51)]
    scores = [float(cosine_V[row]) / TEMPERATURE + logits[row] + repeats[row] for row in rows]
    query = ask_videos(
        events,
        k,
        exclude_M=item_hashes(excluded),
        exclude_seen=exclude_seen,
        filter=condition,
        popularity_weight=weight,
        explain=True,
    )
    items = answer(whole_ranker, query).items
    assert [item.video_id for item in items] == [f"v{row}" for row in by_score(rows, scores)[:k]]
    for item in items:
        assert item.score == pytest.approx(scores[rows.index(int(item.video_id[1:]))], abs=1e-4)
        assert item.parts is not None
        for name, expected in (("prior", logits), ("repeat", repeats)):
            part = item.parts.get(name, 0.0)
            assert part == pytest.approx(expected[int(item.video_id[1:])], abs=1e-4)
        assert sum(item.parts.values()) == item.score


@slow
@given(st.lists(video_names, max_size=12), filters, live_counts, st.integers(1, 60))
def test_without_history_videos_come_by_the_prior_then_in_the_popular_order(
    whole_ranker: Ranker,
    excluded: list[str],
    condition: VideoFilter | None,
    counts: LiveCounts,
    k: int,
) -> None:
    bundle = whole_ranker.bundle
    whole_ranker.update_popularity(counts)
    logits = prior_logits(bundle, counts)
    expected = [
        row
        for row in sorted(bundle.popular.overall_P.tolist(), key=lambda row: -round(logits[row], 5))
        if f"v{row}" not in excluded and (condition is None or matches(bundle, row, condition))
    ]
    query = ask_videos(None, k, exclude_M=item_hashes(excluded), filter=condition, explain=True)
    result = answer(whole_ranker, query)
    assert [item.video_id for item in result.items] == [f"v{row}" for row in expected[:k]]
    assert result.source == "popular"
    for item in result.items:
        assert item.parts == {"prior": item.score}


@slow
@given(
    st.lists(video_names, max_size=4),
    st.lists(comment_names, max_size=8),
    st.integers(1, 49),
)
def test_comments_under_a_video_are_ranked_by_the_whole_score(
    whole_ranker: Ranker, seen: list[str], comments: list[str], target: int
) -> None:
    bundle, events = whole_ranker.bundle, history(seen or ["v1"], comments)
    rows = bundle.catalogue.comments_under(target).tolist()
    preference_D = comment_preference(bundle, events, bundle.tables["video_query_VD"][target])
    cosine_N = bundle.tables["comment_candidate_CD"][rows] @ preference_D
    profile = profile_logits(bundle, events, rows)
    scores = [float(x) / TEMPERATURE + y for x, y in zip(cosine_N, profile, strict=True)]
    query = ask_comments(events, 100, video_id=f"v{target}", explain=True)
    items = answer(whole_ranker, query).items
    expected = [bundle.catalogue.comment_id[row] for row in by_score(rows, scores)]
    assert [item.comment_id for item in items] == expected
    for item in items:
        position = rows.index(bundle.catalogue.comment_index.row(item.comment_id))
        assert item.parts is not None
        assert item.parts["profile"] == pytest.approx(profile[position], abs=1e-4)
        assert item.score == pytest.approx(scores[position], abs=1e-4)
    [feed_item] = [
        item
        for item in answer(
            whole_ranker, FeedQuery(ask_videos(events, 50, exclude_seen=False), 100)
        ).items
        if item.video_id == f"v{target}"
    ]
    assert [comment.comment_id for comment in feed_item.comments] == expected


@pytest.mark.parametrize("k", [1, 10, 200])
def test_all_comments_are_ranked_by_the_whole_score(whole_ranker: Ranker, k: int) -> None:
    bundle, events = whole_ranker.bundle, history(["v1", "v2"], ["c5", "c9", "c77"])
    target_D = video_preference(bundle, events) * np.float32(bundle.manifest.query_norm)
    rows = list(range(1, 201))
    cosine_N = bundle.tables["comment_candidate_CD"][1:] @ comment_preference(
        bundle, events, target_D
    )
    profile = profile_logits(bundle, events, rows)
    scores = [float(x) / TEMPERATURE + y for x, y in zip(cosine_N, profile, strict=True)]
    items = answer(whole_ranker, ask_comments(events, k)).items
    assert [bundle.catalogue.comment_index.row(item.comment_id) for item in items] == by_score(
        rows, scores
    )[:k]


@pytest.mark.parametrize("k", [1, 10, 40])
def test_an_index_that_knows_profiles_finds_the_best_comments_at_once(
    whole_ranker: Ranker, k: int
) -> None:
    bundle = whole_ranker.bundle
    candidate_CD = bundle.tables["comment_candidate_CD"]
    index = exact_comments(bundle)
    users = [history(["v1"], ["c5", "c9"]), history(["v7"]), history([], ["c100", "c3", "c44"])]
    queries = [ask_comments(events, k, exclude_M=item_hashes(["c12"])) for events in users]
    for query, one in zip(
        queries, answer_all(Ranker(open_with(index, bundle)), queries), strict=True
    ):
        assert isinstance(one, Answer) and query.history is not None
        target_D = video_preference(bundle, query.history) * np.float32(bundle.manifest.query_norm)
        preference_D = comment_preference(bundle, query.history, target_D)
        rows = [row for row in range(1, 201) if bundle.catalogue.comment_id[row] != "c12"]
        profile = profile_logits(bundle, query.history, rows)
        cosine_N = candidate_CD[rows] @ preference_D
        scores = [float(x) / TEMPERATURE + y for x, y in zip(cosine_N, profile, strict=True)]
        found = [bundle.catalogue.comment_index.row(item.comment_id) for item in one.items]
        assert found == by_score(rows, scores)[:k]
    assert index.asked == [2 * k + 33]  # of 200, for all three together


comment_queries = st.builds(
    lambda videos, comments, k, options: ask_comments(history(videos, comments), k, **options),
    st.lists(video_names, min_size=1, max_size=4),
    st.lists(comment_names, max_size=8),
    st.integers(1, 30),
    st.fixed_dictionaries(
        {
            "video_id": st.none() | video_names,
            "candidates": st.none() | st.lists(comment_names, max_size=20).map(tuple),
            "exclude_M": st.lists(comment_names, max_size=5).map(item_hashes),
            "exclude_seen": st.booleans(),
            "filter": filters,
        }
    ),
)


@pytest.mark.parametrize("knows_profiles", [False, True])
@slow
@given(st.lists(comment_queries, min_size=2, max_size=6))
def test_comments_ranked_together_are_those_ranked_alone(
    whole_ranker: Ranker, knows_profiles: bool, queries: list[CommentQuery]
) -> None:
    """That is by `CommentRanking.rank`, with further looks."""
    ranker = whole_ranker
    if knows_profiles:
        ranker = Ranker(open_with(exact_comments(ranker.bundle), ranker.bundle))
    together = answer_all(ranker, queries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommentRanking, "rank_together", lambda _, asked: [None] * len(asked))
        one_by_one = answer_all(ranker, queries)
    for found, again in zip(together, one_by_one, strict=True):
        assert isinstance(found, Answer) and isinstance(again, Answer)
        assert found.items == again.items


def exact_comments(bundle: Bundle) -> ExactIndex:
    """An index of comments that knows profiles, as a GPU's."""
    assert bundle.comment_profile_CF is not None
    profile_CF = unit(bundle.comment_profile_CF.astype(np.float32))
    return ExactIndex(bundle.tables["comment_candidate_CD"], profile_CF)


def open_with(index: ExactIndex, bundle: Bundle) -> LocalBundle:
    warm, _ = open_warm(bundle, "cpu", max_batch=4)
    return LocalBundle(replace(warm, comment_index=index), wanted="cpu", cpu_reason=None)


def test_counts_of_the_hour_itself_wait_for_the_next(whole_ranker: Ranker) -> None:
    this_hour = {SEED_HOUR + 2: (item_hashes(["v33"]), np.array([10**6]))}
    firsts = []
    for hour in (SEED_HOUR + 2, SEED_HOUR + 3):
        whole_ranker.update_popularity(LiveCounts(hour, this_hour))
        for events in (None, history(["v1"])):
            firsts.append(answer(whole_ranker, ask_videos(events, 1)).items[0].video_id)
    assert "v33" not in firsts[:2]
    assert firsts[2:] == ["v33", "v33"]


def test_relevance_weighs_in_the_prior_where_an_answer_is_diverse(whole_ranker: Ranker) -> None:
    counts = {SEED_HOUR: (item_hashes(["v33"]), np.array([10**6]))}
    whole_ranker.update_popularity(LiveCounts(SEED_HOUR + 1, counts))
    for events in (None, history(["v1"])):
        query = ask_videos(events, 5, diversity=Diversity(lambda_=0.9))
        assert answer(whole_ranker, query).items[0].video_id == "v33"


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 10.0, -1.0])
@pytest.mark.parametrize("wanted", [1, 20, 400])
@pytest.mark.parametrize("scan_at_once_below", [0, 10_000])
@pytest.mark.parametrize("repeat_logit", [None, -3.0, 30.0])
def test_two_retrievers_and_a_bound_find_what_a_full_scan_finds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strength: float,
    wanted: int,
    scan_at_once_below: int,
    repeat_logit: float | None,
) -> None:
    """From a prior that decides nothing to one that decides all: each look is taken here."""
    monkeypatch.setattr(retrieval, "SCAN_AT_ONCE_BELOW", scan_at_once_below)
    monkeypatch.setattr(retrieval, "SCAN_ROWS", 2048)
    random = default_rng(3)
    candidate_ND = unit(random.standard_normal((5001, 16)))
    candidate_ND[[0, *range(4000, 4300)]] = [[0] * 16, *[candidate_ND[17]] * 300]  # many ties
    logit_V = (strength * random.exponential(1, 5001)).astype(np.float32)
    logit_V[3000:] = 0
    write_index(tmp_path / "x", candidate_ND)
    entry = IndexEntry(kind="flat", recall_at_100=1.0)
    index = CandidateIndex.load(tmp_path / "x", entry, candidate_ND)
    retriever = Retriever(OnlyVideos(index), "video")
    overall = PopularItems.of(np.arange(1, 5001, dtype=np.int32))
    prior = PopularityPrior.of(logit_V, overall)
    seen_N = random.choice(np.arange(1, 5001), 40)
    repeats = None if repeat_logit is None else Repeats(seen_N, repeat_logit)
    parts = VideoParts(prior, 1.0, repeats)
    for row in (17, 90, 4500):
        scorer = Scorer(candidate_ND, TEMPERATURE, candidate_ND[row], parts.of)
        count = retriever.first_count(wanted, excluded=2, is_filtered=False)
        [fetched] = index.search(candidate_ND[row][None], [count])
        allows = allow_except(np.array([row, 5]))
        best = retriever.best(scorer, wanted, allows, fetched, parts.propose)
        ranked = asyncio.run(best)
        score_N = (candidate_ND @ candidate_ND[row]).astype(float) / TEMPERATURE + logit_V
        score_N[np.unique(seen_N)] += repeat_logit or 0.0
        score_N[[0, row, 5]] = -np.inf
        expected = np.argsort(-score_N.round(4), kind="stable")[:wanted]
        assert ranked.score_K == pytest.approx(score_N[expected], abs=1e-4)
        if row == 17:  # its copies tie exactly: they stand in catalogue order
            copies = ranked.row_K[np.isin(ranked.row_K, np.arange(4000, 4300))]
            copies = copies[~np.isin(copies, seen_N)]
            assert copies.tolist() == sorted(copies.tolist())


@slow
@given(st.lists(live_counts, min_size=2, max_size=5), st.sampled_from([0, 1]))
def test_what_late_events_change_is_what_computing_all_again_gives(
    whole_ranker: Ranker, looks: list[LiveCounts], hours_later: int
) -> None:
    """Bit for bit, in the same hour and behind its end; whole hours come, change and go."""
    bundle = whole_ranker.bundle
    overall = PopularItems.of_videos(bundle.popular, bundle.catalogue.video_count)
    prior: PopularityPrior | None = None
    by_hour: dict[int, CountsByHash] = {}
    for number, look in enumerate(looks):
        by_hour = {hour: counts for hour, counts in by_hour.items() if hour % 3 != number % 3}
        by_hour |= look.by_hour
        counts = LiveCounts(looks[0].hour + number * hours_later, by_hour)
        prior = PopularityPrior.build(bundle, overall, counts, prior)
        again = PopularityPrior.build(bundle, overall, counts)
        assert prior is not None and again is not None
        assert np.array_equal(prior.logit_V[1:], again.logit_V[1:])
        assert np.array_equal(prior.first_P, again.first_P)
        assert np.array_equal(prior.place_V, again.place_V)
