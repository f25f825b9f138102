import polars as pl
import pytest

from tests.training.worlds import dataset, random_dataset
from training.data_description import (
    DAY_MS,
    describe,
    popularity_hits,
    script_shares,
    time_resolution,
)


def events(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [(user, video, day * DAY_MS) for user, video, day in rows],
        schema={"user_id": pl.String, "video_id": pl.String, "timestamp": pl.Int64},
        orient="row",
    )


def test_recent_popularity_forgets_and_knows_nothing_of_the_same_day():
    old = [(f"u{number}", "old" if number < 5 else f"v{number}", 0) for number in range(20)]
    # On day 20 all that was is older than a week; day 21 sees "zzz" of day 20.
    ever, late = popularity_hits(events(*old, ("a", "zzz", 20), ("b", "zzz", 21), ("c", "old", 21)))
    # 20 users of day 0 have nothing before them; of a, b, c: "old" and "zzz" are of the ten
    assert late == pytest.approx(1 / 23)
    assert ever == pytest.approx(1 / 23), "zzz: once, in 17th place among equals; old: five times"


def test_time_resolution_is_the_coarsest_that_fits():
    assert time_resolution(pl.Series([0, DAY_MS])) == "days"
    assert time_resolution(pl.Series([0, 61_000])) == "seconds"
    assert time_resolution(pl.Series([0, 1])) == "milliseconds"


def test_scripts_are_counted_by_letters():
    assert script_shares(["abc 123!", "да", "漢"]) == pytest.approx(
        {"Latin": 3 / 6, "Cyrillic": 2 / 6, "Han": 1 / 6}
    )
    assert script_shares(["123"]) == {}


def test_sparsity_and_repeats_are_those_of_hand():
    world = dataset(
        videos=[("v1", "one"), ("v2", "two"), ("v3", "three")],
        comments=[],
        video_events=[("a", "v1", 1), ("a", "v1", 2), ("a", "v2", 3), ("b", "v1", 4)],
        comment_events=[],
    )
    facts, advice = describe(world)
    figures = dict(facts)
    assert figures["repeats of a video by its user"] == "25.0% of video events"
    assert figures["sparsity"] == "25.000% of user-video pairs are empty"
    assert figures["videos with an event"] == "2 of 3"
    assert any("no comment events" in sentence for sentence in advice)


def test_any_world_can_be_described():
    for seed in range(5):
        facts, _ = describe(random_dataset(seed))
        assert all(figure for _, figure in facts)
