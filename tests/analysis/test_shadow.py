from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis.__main__ import main
from analysis.log_tables import read_exposures
from analysis.shadow import compare_shadows
from lsvcr.errors import DataError

EMPTY = read_exposures([])


def answer(number: int, items: list[str], **fields: Any) -> dict[str, Any]:
    return {
        "recommendation_id": f"r{number}",
        "experiment": "x",
        "arm": "a",
        "model_version": "old",
        "endpoint": "videos",
        "video_ids": items,
        "comment_ids": [],
        "degraded": [],
        "latency_ms": 4.0,
        **fields,
    }


def write(folder: Path, shown: list[dict[str, Any]], shadows: list[dict[str, Any]]) -> None:
    for name, rows in (("exposures", shown), ("shadow_exposures", shadows)):
        table = pl.DataFrame(rows, schema_overrides=EMPTY[name].schema)
        pl.concat([EMPTY[name], table], how="diagonal").write_parquet(folder / f"{name}.parquet")


def test_pairs_of_answers_by_hand(tmp_path: Path) -> None:
    new = {"arm": "new", "model_version": "next", "latency_ms": 9.0}
    comments = {"endpoint": "comments", "video_ids": []}
    shown = [
        answer(1, ["v1", "v2", "v3", "v4"]),
        answer(1, ["v1", "v2", "v3", "v4"], experiment="y"),  # of two experiments, one answer
        answer(2, ["v1", "v2"]),
        answer(3, [], **comments),
        answer(4, [], **comments | {"comment_ids": ["c1"]}),
        answer(5, ["v1"]),  # ran beside no shadow
    ]
    shadows = [
        answer(1, ["v1", "v9", "v4", "v8"], **new),
        answer(2, ["v2", "v1"], **new),
        answer(3, [], **new | comments),
        answer(4, [], **new | comments | {"degraded": ["encoder"]}),
        answer(1, ["v1"], **new | {"arm": "other"}),
        answer(2, ["v1"], **new | {"experiment": "y"}),
    ]
    write(tmp_path, shown, shadows)
    first, other = compare_shadows(tmp_path, "x")
    assert (first.arm, first.answers, first.model_versions) == ("new", 4, ["next"])
    assert first.overlap == pytest.approx((2 / 4 + 2 / 2 + 0) / 3)
    assert first.same_first == pytest.approx(1 / 3)
    assert (first.latency_ms, first.shown_latency_ms) == (9, 4)
    assert (first.empty, first.shown_empty) == (2 / 4, 1 / 4)
    assert (first.degraded, first.shown_degraded) == (1 / 4, 0)
    assert (other.arm, other.overlap, other.same_first) == ("other", 1 / 4, 1)


def test_nothing_to_compare_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"exposures\.parquet: no such file"):
        compare_shadows(tmp_path, "x")
    write(tmp_path, [answer(1, ["v1"])], [])
    assert main(["shadow", "--exposures", str(tmp_path), "--experiment", "x"]) == 1
    assert "no answers of shadow arms of experiment 'x'" in capsys.readouterr().err
    write(tmp_path, [answer(1, ["v1"])], [answer(1, ["v1"], arm="new")])
    assert main(["shadow", "--exposures", str(tmp_path), "--experiment", "x"]) == 0
    assert (
        "new: 1 answers beside those shown, 100 % of the items the same" in capsys.readouterr().out
    )
