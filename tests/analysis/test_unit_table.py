from typing import Any

import pytest
from experiment_tables import DAY_MS, START_MS, definition_of, event, exposure, tables_of

from analysis.definition import Plan
from analysis.unit_table import build_unit_table
from lsvcr.errors import DataError


def rows_of(exposures: list[Any], events: list[Any], plan: Plan | None = None) -> dict[str, Any]:
    table = build_unit_table(tables_of(exposures, events), plan or Plan())
    return {row["unit_id"]: row for row in table.units.iter_rows(named=True)}


def test_events_count_from_the_first_exposure_on_and_before_the_start() -> None:
    exposures = [exposure("r1", "u", "a"), exposure("r2", "w", "b", timestamp=exposure_ms(500))]
    events = [
        event("u", at=-15 * DAY_MS, watch_time_ms=1),  # before the pre-period
        event("u", at=-DAY_MS, watch_time_ms=10),
        event("u", at=5, watch_time_ms=100),
        event("u", at=6, kind="video_watch", watch_time_ms=1000),
        event("u", at=7, kind="comment_reply"),
        event("w", at=100, watch_time_ms=7),  # started, but not shown anything yet
        event("stranger", at=5, watch_time_ms=9),
    ]
    rows = rows_of(exposures, events)
    assert rows["u"]["comment_watch_time_ms"] == 100
    assert rows["u"]["video_watch_time_ms"] == 1000
    assert rows["u"]["interactions"] == 1
    assert rows["u"]["pre_comment_watch_time_ms"] == 10
    assert rows["w"]["comment_watch_time_ms"] == rows["w"]["pre_comment_watch_time_ms"] == 0
    assert set(rows) == {"u", "w"}


def exposure_ms(later: int) -> int:
    return int(exposure("r", "u", "a")["timestamp"]) + later


def test_answers_are_counted_by_what_they_were() -> None:
    exposures = [
        exposure("r1", "u", "a", latency_ms=2.0),
        exposure("r1", "u", "a", latency_ms=2.0),  # delivered twice
        exposure("r2", "u", "a", video_ids=[], degraded=["encoder"]),
        exposure("r3", "u", "a", video_ids=None, comment_ids=["c"]),
    ]
    rows = rows_of(exposures, [event("u", at=1, recommendation_id="r1") for _ in range(2)])
    found = {name: rows["u"][name] for name in ("exposures", "followed", "degraded", "empty")}
    assert found == {"exposures": 3, "followed": 1, "degraded": 1, "empty": 1}
    assert rows["u"]["latency_ms"] == 2 + 4 + 4


def test_a_unit_of_two_arms_is_left_out_and_counted() -> None:
    exposures = [exposure("r1", "u", "a"), exposure("r2", "u", "b"), exposure("r3", "w", "b")]
    table = build_unit_table(tables_of(exposures, []), Plan())
    assert table.units["unit_id"].to_list() == ["w"]
    assert table.crossed == 1


def test_events_of_a_user_with_two_devices_go_by_their_recommendation() -> None:
    exposures = [
        exposure("r1", "u", "a", unit_id="phone"),
        exposure("r2", "u", "b", unit_id="tablet"),
    ]
    events = [
        event("u", at=1, watch_time_ms=5, recommendation_id="r2"),
        event("u", at=2, watch_time_ms=50),
    ]
    table = build_unit_table(tables_of(exposures, events), Plan())
    watched = dict(table.units.select("unit_id", "comment_watch_time_ms").iter_rows())
    assert watched == {"phone": 0, "tablet": 5}
    assert table.unattributed == 1


def test_winsorising_cuts_at_a_quantile_of_all_units() -> None:
    users = [f"u{number}" for number in range(11)]
    exposures = [exposure(f"r-{user}", user, "ab"[n % 2]) for n, user in enumerate(users)]
    events = [event(user, at=1, watch_time_ms=10 * n) for n, user in enumerate(users)]
    rows = rows_of(exposures, events, Plan(winsorise=0.8))
    assert [rows[user]["comment_watch_time_ms"] for user in users] == [
        *range(0, 81, 10), 80, 80
    ]  # fmt: skip


def test_answers_by_a_forced_arm_and_those_in_no_experiment_are_left_out() -> None:
    exposures = [
        exposure("r1", "u", "a"),
        exposure("r2", "w", "b", reason="forced"),
        exposure("r3", "v", "b", unit_id="phone", reason="forced"),
        {**exposure("r4", "v", "b", reason=None), "experiment": None, "arm": None},
    ]
    assert tables_of(exposures, []).exposures["unit_id"].to_list() == ["u"]


def test_an_earlier_experiment_of_the_same_name_is_left_out() -> None:
    exposures = [exposure("r1", "u", "a", timestamp=START_MS - 1), exposure("r2", "w", "b")]
    definition = definition_of(created_at=START_MS)
    assert tables_of(exposures, [], definition).exposures["unit_id"].to_list() == ["w"]


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="arm: 'c' is none of"):
        tables_of([exposure("r1", "u", "c")], [])
    with pytest.raises(DataError, match="'r1' has neither"):
        tables_of([exposure("r1", None, "a")], [])
    with pytest.raises(DataError, match="no exposures of experiment 'y'"):
        tables_of([exposure("r1", "u", "a")], [], definition_of(name="y"))
