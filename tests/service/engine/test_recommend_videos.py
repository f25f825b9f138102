import msgspec
import numpy as np
import pytest
from engine_questions import (
    answer,
    answer_all,
    ask_videos,
    best_rows,
    history,
    matches,
    video_preference,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle_builder import DAY_MS, TEMPERATURE

from lsvcr.catalogue import item_hashes
from service.engine.queries import (
    Answer,
    Diversity,
    EventHistory,
    Reason,
    VideoFilter,
)
from service.engine.ranker import Ranker

video_ids = st.lists(st.sampled_from([f"v{number}" for number in range(1, 51)]), max_size=45)
known_video_ids = video_ids.filter(bool)
days = st.none() | st.integers(-5, 60).map(lambda day: day * DAY_MS)


def names(*values: str) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(values), max_size=3)


filters = st.none() | st.builds(
    VideoFilter,
    categories_any=names("k0", "k1", "nowhere"),
    categories_none=names("k2", "k3", "nowhere"),
    authors_any=names("a0", "a1", "a2", "a3"),
    authors_none=names("a3", "a4"),
    published_after_ms=days,
    published_before_ms=days,
)
slow = settings(max_examples=60, derandomize=True)


def ids(result: Answer) -> list[str]:
    return [item.video_id for item in result.items]


def allowed_rows(
    ranker: Ranker, excluded: set[str], condition: VideoFilter | None, order: list[int]
) -> list[int]:
    bundle = ranker.bundle
    return [
        row
        for row in order
        if bundle.catalogue.video_id[row] not in excluded
        and (condition is None or matches(bundle, row, condition))
    ]


@slow
@given(known_video_ids, video_ids, st.booleans(), filters, st.integers(1, 60))
def test_the_ranking_is_that_of_a_full_scan(
    ranker: Ranker,
    seen: list[str],
    excluded: list[str],
    exclude_seen: bool,
    condition: VideoFilter | None,
    k: int,
) -> None:
    bundle, events = ranker.bundle, history(seen)
    query = ask_videos(
        events, k, exclude_M=item_hashes(excluded), exclude_seen=exclude_seen, filter=condition
    )
    banned = {*excluded, *(seen if exclude_seen else [])}
    rows = allowed_rows(ranker, banned, condition, list(range(1, 51)))
    expected = best_rows(
        video_preference(bundle, events), bundle.tables["video_candidate_VD"], rows
    )
    result = answer(ranker, query)
    assert ids(result) == [bundle.catalogue.video_id[row] for row in expected[:k]]
    assert result.source == "model"


@slow
@given(video_ids, filters, st.integers(1, 60))
def test_without_history_the_popular_list_obeys_filters_and_exclusions(
    ranker: Ranker, excluded: list[str], condition: VideoFilter | None, k: int
) -> None:
    query = ask_videos(None, k, exclude_M=item_hashes(excluded), filter=condition)
    popular = ranker.bundle.popular.overall_P.tolist()
    expected = allowed_rows(ranker, set(excluded), condition, popular)
    result = answer(ranker, query)
    assert ids(result) == [ranker.bundle.catalogue.video_id[row] for row in expected[:k]]
    assert (result.source, result.history_used) == ("popular", (0, 0))


@slow
@given(
    st.lists(
        st.sampled_from([None, ("v1",), ("v2", "v9"), ("v3", "v4", "v5")]), min_size=1, max_size=6
    ),
    st.integers(1, 50),
)
def test_a_batch_answers_like_its_queries_alone(
    ranker: Ranker, users: list[tuple[str, ...] | None], k: int
) -> None:
    queries = [ask_videos(None if user is None else history(user), k) for user in users]
    together = answer_all(ranker, queries)
    for query, batched in zip(queries, together, strict=True):
        alone = answer(ranker, query)
        assert isinstance(batched, Answer)
        assert ids(batched) == ids(alone)
        assert [item.score for item in batched.items] == pytest.approx(
            [item.score for item in alone.items], abs=1e-4
        )


def test_ties_stand_in_catalogue_order(ranker: Ranker) -> None:
    ranking = ids(answer(ranker, ask_videos(history(["v1"]), 50)))
    start = ranking.index("v11")  # videos 11 to 14 have the same vector
    assert ranking[start : start + 4] == ["v11", "v12", "v13", "v14"]


def test_the_score_is_cosine_over_temperature_and_the_sum_of_its_parts(ranker: Ranker) -> None:
    events = history(["v1", "v2"])
    [best, *_] = answer(ranker, ask_videos(events, 1, explain=True)).items
    row = ranker.bundle.catalogue.video_index.row(best.video_id)
    cosine = ranker.bundle.tables["video_candidate_VD"][row] @ video_preference(
        ranker.bundle, events
    )
    assert best.score == pytest.approx(cosine / TEMPERATURE, abs=1e-4)
    assert best.parts is not None
    assert sum(best.parts.values()) == best.score


def test_because_names_the_history_with_its_attention(ranker: Ranker) -> None:
    # The tiny encoder attends in proportion to order + 2: start 1, v1 2, v2 3, v3 4, v4 5.
    events = history(["v1", "v2", "v3", "v4"])
    [item] = answer(ranker, ask_videos(events, 1, explain=True)).items
    assert item.because == (
        Reason(video_id="v4", share=pytest.approx(5 / 15)),
        Reason(video_id="v3", share=pytest.approx(4 / 15)),
        Reason(video_id="v2", share=pytest.approx(3 / 15)),
    )


def test_without_explain_items_carry_no_explanation(ranker: Ranker) -> None:
    [item] = answer(ranker, ask_videos(history(["v1"]), 1)).items
    assert (item.parts, item.because) == (None, None)


def test_unknown_events_are_skipped_and_counted(ranker: Ranker) -> None:
    plain = answer(ranker, ask_videos(history(["v1"])))
    odd = answer(ranker, ask_videos(history(["v1", "gone"], ["gone too"])))
    assert (odd.ignored, odd.history_used, ids(odd)) == (2, (1, 0), ids(plain))


def test_only_unknown_events_make_a_popular_answer(ranker: Ranker) -> None:
    result = answer(ranker, ask_videos(history(["gone"])))
    assert (result.source, result.ignored, result.history_used) == ("popular", 1, (0, 0))


def test_only_the_newest_events_reach_the_encoder(ranker: Ranker) -> None:
    long = history([f"v{number}" for number in range(1, 10)])  # max_history is 6
    short = history([f"v{number}" for number in range(4, 10)])
    result = answer(ranker, ask_videos(long, exclude_seen=False))
    assert result.history_used == (6, 0)
    assert ids(result) == ids(answer(ranker, ask_videos(short, exclude_seen=False)))


def test_seen_covers_the_whole_history_and_commented_videos(ranker: Ranker) -> None:
    catalogue = ranker.bundle.catalogue
    commented = catalogue.video_id[int(catalogue.comment_video_C[1])]
    seen = [f"v{number}" for number in range(1, 21)]
    events = history(seen, [catalogue.comment_id[1]])
    ranking = ids(answer(ranker, ask_videos(events, 50)))
    assert set(ranking) == {f"v{number}" for number in range(1, 51)} - {*seen, commented}


def test_caps_hold_and_the_answer_stays_full_while_that_is_possible(ranker: Ranker) -> None:
    catalogue = ranker.bundle.catalogue
    for events in (history(["v1"]), None):
        query = ask_videos(events, 14, diversity=Diversity(max_per_author=2))
        rows = [catalogue.video_index.row(name) for name in ids(answer(ranker, query))]
        authors = catalogue.author_V[rows]
        counts = np.bincount(authors, minlength=len(catalogue.authors))
        assert len(rows) == 14  # seven authors, two each, or unknown ones
        assert counts[1:].max() <= 2


def test_a_small_lambda_spreads_the_answer(ranker: Ranker) -> None:
    candidate_VD = ranker.bundle.tables["video_candidate_VD"]

    def closeness(lambda_: float) -> float:
        query = ask_videos(history(["v1"]), 5, diversity=Diversity(lambda_))
        names = ids(answer(ranker, query))
        vector_KD = candidate_VD[[ranker.bundle.catalogue.video_index.row(name) for name in names]]
        return float((vector_KD @ vector_KD.T).mean())

    assert closeness(0.3) < closeness(1.0)


def test_k_beyond_the_catalogue_yields_all_of_it(ranker: Ranker) -> None:
    assert len(answer(ranker, ask_videos(history(["v1"]), 500)).items) == 49
    assert len(answer(ranker, ask_videos(None, 500)).items) == 50


def test_the_encoder_may_be_told_to_read_the_newest_events_only(ranker: Ranker) -> None:
    names = ["v9", "v4", "v1", "v2"]
    few = msgspec.structs.replace(history(names, ["c5", "c9", "c77"]), max_events=2)
    newest = EventHistory(
        few.video_hash_N[-2:],
        few.video_timestamp_N[-2:],
        few.comment_hash_M[-2:],
        few.comment_timestamp_M[-2:],
    )
    told, meant = (answer(ranker, ask_videos(one, 50, exclude_seen=False)) for one in (few, newest))
    assert told.items == meant.items
    assert told.history_used == meant.history_used == (2, 2)
    assert not set(ids(answer(ranker, ask_videos(few, 50)))) & {*names}  # unread, but seen
