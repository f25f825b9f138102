from typing import NoReturn

import numpy as np
import pytest
from engine_questions import (
    answer,
    answer_all,
    ask_comments,
    ask_videos,
    best_rows,
    comment_preference,
    history,
    matches,
    video_preference,
)
from numpy.typing import NDArray

from lsvcr.bundle import Bundle
from lsvcr.catalogue import item_hashes
from service.engine import popularity
from service.engine.first_look import FirstLook
from service.engine.popularity import PopularComments, PopularItems
from service.engine.queries import Answer, FeedQuery, Reason, SimilarQuery, VideoFilter
from service.engine.ranker import Ranker
from service.engine.warm_bundle import EncodedUsers
from service.errors import UnknownVideoError

USER = history(["v1", "v2"], ["c5", "c9"])
LAST_VIDEO = "v50"  # has no comment


def comment_ids(result: Answer) -> list[str]:
    return [item.comment_id for item in result.items]


def names(bundle: Bundle, rows: list[int]) -> list[str]:
    return [bundle.catalogue.comment_id[row] for row in rows]


def ranked_under(bundle: Bundle, video_id: str) -> list[str]:
    row = bundle.catalogue.video_index.row(video_id)
    preference_D = comment_preference(bundle, USER, bundle.tables["video_query_VD"][row])
    rows = bundle.catalogue.comments_under(row).tolist()
    return names(bundle, best_rows(preference_D, bundle.tables["comment_candidate_CD"], rows))


@pytest.mark.parametrize("video_id", [f"v{number}" for number in range(1, 50)])
def test_comments_under_a_video_are_ranked_by_exact_score(ranker: Ranker, video_id: str) -> None:
    result = answer(ranker, ask_comments(USER, 100, video_id=video_id))
    assert comment_ids(result) == ranked_under(ranker.bundle, video_id)
    assert {item.video_id for item in result.items} <= {video_id}
    assert (result.source, result.history_used) == ("model", (2, 2))


def test_without_history_comments_come_in_popular_order(ranker: Ranker) -> None:
    catalogue = ranker.bundle.catalogue
    rows = catalogue.comments_under(catalogue.video_index.row("v3")).tolist()
    result = answer(ranker, ask_comments(None, 2, video_id="v3"))
    assert comment_ids(result) == names(ranker.bundle, rows[:2])
    assert result.source == "popular"
    assert [item.score for item in result.items] == [1, 0.5]


@pytest.mark.parametrize("events", [USER, None])
def test_an_unknown_video_is_refused_and_its_batch_mates_are_answered(
    ranker: Ranker, events: object
) -> None:
    queries = [ask_comments(USER, video_id="v3"), ask_comments(events, video_id="gone")]  # type: ignore[arg-type]
    good, bad = answer_all(ranker, queries)
    assert isinstance(good, Answer)
    assert isinstance(bad, UnknownVideoError)


def test_a_video_without_comments_has_an_empty_answer(ranker: Ranker) -> None:
    assert answer(ranker, ask_comments(USER, video_id=LAST_VIDEO)).items == ()
    assert answer(ranker, ask_comments(None, video_id=LAST_VIDEO)).items == ()


@pytest.mark.parametrize("events", [USER, None])
def test_candidates_narrow_the_ranking_and_strangers_are_counted(
    ranker: Ranker, events: object
) -> None:
    whole = comment_ids(answer(ranker, ask_comments(events, 99, video_id="v3")))  # type: ignore[arg-type]
    elsewhere = comment_ids(answer(ranker, ask_comments(USER, 1, video_id="v4")))
    wanted = (whole[2], whole[0], whole[2], *elsewhere, "gone")
    result = answer(ranker, ask_comments(events, video_id="v3", candidates=wanted))  # type: ignore[arg-type]
    assert comment_ids(result) == [whole[0], whole[2]]
    assert result.ignored == 2


def test_excluded_and_where_wished_seen_comments_stay_away(ranker: Ranker) -> None:
    catalogue = ranker.bundle.catalogue
    whole = comment_ids(answer(ranker, ask_comments(USER, 99, video_id="v3")))
    events = history(["v1", "v2"], [whole[0]])
    assert whole[0] in comment_ids(answer(ranker, ask_comments(events, 99, video_id="v3")))
    query = ask_comments(
        events, 99, video_id="v3", exclude_M=item_hashes([whole[1]]), exclude_seen=True
    )
    assert set(comment_ids(answer(ranker, query))) == set(whole[2:])
    assert catalogue.video_index.row("v3") > 0


def test_filters_do_not_apply_under_a_video(ranker: Ranker) -> None:
    nothing = VideoFilter(categories_any=frozenset({"nowhere"}))
    assert answer(ranker, ask_comments(USER, video_id="v3", filter=nothing)).items


@pytest.mark.parametrize("k", [1, 10, 200])
@pytest.mark.parametrize(
    "condition", [None, VideoFilter(categories_any=frozenset({"k1"}), published_after_ms=0)]
)
def test_over_all_comments_the_users_taste_stands_in_for_the_video(
    ranker: Ranker, k: int, condition: VideoFilter | None
) -> None:
    bundle = ranker.bundle
    target_D = video_preference(bundle, USER) * np.float32(bundle.manifest.query_norm)
    preference_D = comment_preference(bundle, USER, target_D)
    video_C = bundle.catalogue.comment_video_C
    rows = [
        row
        for row in range(1, 201)
        if condition is None or matches(bundle, int(video_C[row]), condition)
    ]
    expected = best_rows(preference_D, bundle.tables["comment_candidate_CD"], rows)[:k]
    result = answer(ranker, ask_comments(USER, k, filter=condition))
    assert comment_ids(result) == names(bundle, expected)
    assert [item.video_id for item in result.items] == [
        bundle.catalogue.video_id[int(video_C[row])] for row in expected
    ]


def test_without_history_each_popular_video_gives_its_best_comment_first(ranker: Ranker) -> None:
    catalogue = ranker.bundle.catalogue
    first_V = catalogue.popular_comment()
    popular = [first_V[row] for row in ranker.bundle.popular.overall_P if first_V[row]]
    result = answer(ranker, ask_comments(None, 200))
    assert comment_ids(result)[: len(popular)] == names(ranker.bundle, popular)
    assert sorted(comment_ids(result)) == sorted(catalogue.comment_id[row] for row in range(1, 201))


def test_because_names_the_comments_attended_to(ranker: Ranker) -> None:
    # Orders: start -1, v1 0, comment c5 1 to 2, v2 3, comment c9 4 to 5; weights are last + 2.
    [item, *_] = answer(ranker, ask_comments(USER, 1, video_id="v3", explain=True)).items
    assert item.because == (
        Reason(comment_id="c9", share=pytest.approx(7 / 12)),
        Reason(comment_id="c5", share=pytest.approx(4 / 12)),
    )
    assert item.parts == {"encoder": item.score}


def test_a_feed_joins_the_video_and_the_comment_ranking(ranker: Ranker) -> None:
    feed = answer(ranker, FeedQuery(ask_videos(USER, 20), comments_per_video=3))
    videos = answer(ranker, ask_videos(USER, 20))
    assert [item.video_id for item in feed.items] == [item.video_id for item in videos.items]
    for item in feed.items:
        under = [comment.comment_id for comment in item.comments]
        assert under == ranked_under(ranker.bundle, item.video_id)[:3]


def test_a_feed_without_history_is_popular_throughout(ranker: Ranker) -> None:
    feed = answer(ranker, FeedQuery(ask_videos(None, 5), comments_per_video=2))
    catalogue = ranker.bundle.catalogue
    assert feed.source == "popular"
    for item, row in zip(feed.items, ranker.bundle.popular.overall_P, strict=False):
        assert item.video_id == catalogue.video_id[row]
        under = [comment.comment_id for comment in item.comments]
        assert under == names(ranker.bundle, catalogue.comments_under(row).tolist()[:2])


def test_similar_videos_are_the_nearest_by_cosine_without_the_video_itself(ranker: Ranker) -> None:
    candidate_VD = ranker.bundle.tables["video_candidate_VD"]
    rows = [row for row in range(1, 51) if row != 11]
    result = answer(ranker, SimilarQuery("v11", 8, np.inf))
    expected = best_rows(candidate_VD[11], candidate_VD, rows)[:8]
    assert [item.video_id for item in result.items] == [f"v{row}" for row in expected]
    assert [item.video_id for item in result.items][:3] == ["v12", "v13", "v14"]
    assert result.items[0].score == pytest.approx(1, abs=1e-5)


def test_similar_videos_of_an_unknown_video_are_refused(ranker: Ranker) -> None:
    [result] = answer_all(ranker, [SimilarQuery("gone", 8, np.inf)])
    assert isinstance(result, UnknownVideoError)


@pytest.mark.parametrize("k", [1, 7, 200])
def test_popular_comments_come_level_by_level(
    ranker: Ranker, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All first ones, then all second ones, each time in the videos' order; some may not appear."""
    monkeypatch.setattr(popularity, "FIRST_LOOK", 4)
    monkeypatch.setattr(popularity, "WIDENING", 2)
    catalogue = ranker.bundle.catalogue
    videos = PopularItems.of_videos(ranker.bundle.popular, catalogue.video_count)
    order = {row: place for place, row in enumerate(videos.row_P.tolist())}
    rows = sorted(
        range(1, catalogue.comment_count),
        key=lambda row: (
            row - catalogue.comment_start_V1[catalogue.comment_video_C[row]],
            order[int(catalogue.comment_video_C[row])],
        ),
    )
    expected = [(row, place) for place, row in enumerate(rows) if row % 3][:k]
    best = PopularComments.of(videos, catalogue).best(k, lambda row_N: row_N % 3 > 0)
    assert best.row_K.tolist() == [row for row, _ in expected]
    assert best.score_K == pytest.approx([1 / (place + 1) for _, place in expected])


def test_a_batch_is_one_question_to_the_engine_and_answers_each_as_if_alone(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = history(["v9", "v30"], ["c1"])
    queries = [ask_comments(USER, 1), ask_comments(others, 30), ask_comments(USER, 5)]
    alone = [comment_ids(answer(ranker, query)) for query in queries]
    asked: list[FirstLook] = []
    encode = ranker.opened.encode

    async def note(
        history_BSF: NDArray[np.int32], look: FirstLook, *, until_s: float
    ) -> EncodedUsers:
        asked.append(look)
        return await encode(history_BSF, look, until_s=until_s)

    async def refuse(*_: object) -> NoReturn:
        raise AssertionError("the first look is enough")

    monkeypatch.setattr(ranker.opened, "encode", note)
    monkeypatch.setattr(ranker.opened, "search", refuse)
    mates = [ask_comments(None), ask_comments(USER, video_id="v3"), ask_videos(USER)]
    together = answer_all(ranker, [*queries, *mates])
    assert [comment_ids(result) for result in together[:3]] == alone  # type: ignore[arg-type]
    [look] = asked
    assert look.comments is not None
    assert look.comments.users == [0, 1, 2, 3]
    assert [count > 0 for count in look.comments.counts] == [True, True, True, False]
