import json
from pathlib import Path

import pytest

from lsvcr.errors import DataError
from tests.training.tiny_language_model import save_tiny_language_model
from tests.training.together import run_together
from tests.training.worlds import random_dataset
from training.config import PRESETS
from training.dataset_folder import write_dataset
from training.quality_tables import TABLES, QualityTable, Row
from training.reproduce import reproduce, row_config


def test_every_row_of_every_table_is_a_configuration_of_its_own():
    for table in TABLES.values():
        hashes = {row_config(table, row, 1).short_hash for row in table.rows}
        assert len(hashes) == len(table.rows)


def test_the_hash_follows_every_setting():
    base = PRESETS["tiny"]
    assert base.short_hash == PRESETS["tiny"].override([]).short_hash
    assert base.short_hash != base.override(["fit.seed=1"]).short_hash


def test_a_table_is_run_once_and_read_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(random_dataset(0), tmp_path / "data")
    model = save_tiny_language_model(tmp_path / "model")
    table = QualityTable(
        "a random world",
        (
            Row("whole", preset="tiny"),
            Row("no prior", ("model.prior_half_lives_days=[]",), preset="tiny"),
        ),
        settings=("data.min_events=1", "fit.epochs=1", f"text.language_model={model}"),
        seeds=(1, 2),
    )
    monkeypatch.setitem(TABLES, "small world", table)
    arguments = {
        "data": tmp_path / "data",
        "runs": tmp_path / "runs",
        "text_vectors": tmp_path / "vectors",
        "only": [],
        "out": tmp_path / "results" / "small world.json",
    }
    text = reproduce("small world", **arguments)
    assert text.count("\n| whole | 2 |") == 1 and text.count("\n| no prior | 2 |") == 1
    result = json.loads(arguments["out"].read_text())
    whole, no_prior = result["rows"]
    assert [run["seed"] for run in whole["runs"]] == [1, 2]
    assert whole["against_first"] == {} and "video full ndcg@10" in no_prior["against_first"]
    values = [run["metrics"]["video"]["full"]["ndcg@10"] for run in whole["runs"]]
    mean = whole["over_seeds"]["video full ndcg@10"]
    assert mean["mean"] == pytest.approx(sum(values) / 2)
    assert mean["sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    low, high = whole["runs"][0]["intervals"]["model"]["video"]["full"]["ndcg@10"]
    assert low <= values[0] <= high

    capsys.readouterr()
    assert reproduce("small world", **arguments) == text
    assert "every text" not in capsys.readouterr().out, "a finished row is only read"


def test_unknown_tables_and_rows_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    arguments = {"data": tmp_path, "runs": tmp_path, "text_vectors": tmp_path, "out": tmp_path}
    with pytest.raises(DataError, match="known are headline"):
        reproduce("x", only=[], **arguments)
    with pytest.raises(DataError, match="no row 'x'; known are small"):
        reproduce("headline", only=["x"], **arguments)


def reproduce_one_row(folder: Path) -> None:
    settings = (
        "data.min_events=1", "fit.epochs=1", "fit.batch_rows=4", "fit.device=cpu",
        "model.prior_half_lives_days=[]", f"text.language_model={folder / 'model'}",
    )  # fmt: skip
    row = Row("whole", preset="tiny")
    TABLES["together"] = QualityTable("a random world", (row,), settings=settings, seeds=(1,))
    markdown = reproduce(
        "together",
        data=folder / "data",
        runs=folder / "runs",
        text_vectors=folder / "vectors",
        only=[],
        out=folder / "together.json",
    )
    assert "| whole | 1 |" in markdown


def test_two_processes_make_a_table_together(tmp_path: Path) -> None:
    write_dataset(random_dataset(0), tmp_path / "data")
    save_tiny_language_model(tmp_path / "model")
    run_together(2, reproduce_one_row, tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == list(dict.fromkeys(steps)), "each is done and noted once"
    assert steps[0] == "machine" and steps[-2:] == ["fit", "evaluate"]
    assert json.loads((tmp_path / "together.json").read_text())["rows"][0]["name"] == "whole"
