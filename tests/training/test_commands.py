import json
import re
from pathlib import Path

import pytest

from tests.training.tiny_language_model import save_tiny_language_model
from tests.training.worlds import random_dataset
from training.__main__ import main
from training.dataset_folder import write_dataset
from training.text_embedding import embed_texts

PRESET = ["--preset", "tiny", "--set", "data.min_events=1", "--set", "fit.epochs=2"]


@pytest.fixture
def start(tmp_path: Path) -> list[str]:
    """Arguments of a run of seconds."""
    write_dataset(random_dataset(0), tmp_path / "data")
    model = save_tiny_language_model(tmp_path / "model")
    data, out = str(tmp_path / "data"), str(tmp_path / "run")
    return ["--data", data, "--out", out, *PRESET, "--set", f"text.language_model={model}"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_writes_metrics_and_report_and_a_second_one_skips_everything(
    start: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["run", *start]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["video"]["sampled"]["users"] > 0
    assert set(metrics["baselines"]) == {"popularity", "text_neighbours", "prior_and_profile"}
    page = (run / "report.html").read_text()
    assert "fit.learning_rate" in page and "polyline" in page and "What came next" in page
    assert not re.search(r"https?://", page), "the page needs nothing from elsewhere"

    before = contents(run)
    capsys.readouterr()
    assert main(["run", *start]) == 0
    output = capsys.readouterr().out
    for message in ("every text has its vector", "fit: finished before", "evaluate: finished"):
        assert message in output
    assert contents(run) == before


def test_steps_alone_come_to_the_same_metrics_as_a_run(start: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    for command in (["embed", *start], ["fit"], ["evaluate"], ["report"]):
        arguments = command if len(command) > 1 else [*command, "--run", str(run)]
        assert main(arguments) == 0
    alone = (run / "metrics.json").read_text()
    run.rename(tmp_path / "alone")
    assert main(["run", *start]) == 0
    assert (run / "metrics.json").read_text() == alone


def test_a_step_whose_predecessor_is_missing_names_it(
    start: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["fit", "--run", str(run)]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert main(["embed", *start]) == 0
    for command in ("evaluate", "report"):
        assert main([command, "--run", str(run)]) == 2
        assert "is not finished; first run" in capsys.readouterr().err
    (tmp_path / "text_vectors" / "data").rename(tmp_path / "elsewhere")
    assert main(["fit", "--run", str(run)]) == 2
    assert "run `embed` first" in capsys.readouterr().err


def test_ctrl_c_exits_with_130_and_the_same_command_goes_on(
    start: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def embed_then_stop(*args: object, **kwargs: object) -> None:
        embed_texts(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.run_texts.embed_texts", embed_then_stop)
        assert main(["run", *start]) == 130
    assert "run the same command to go on" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert main(["run", *start]) == 0
    assert "every text has its vector" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("fit.epoch=3", "no setting 'fit.epoch'"),
        ("epochs=3", "no setting 'epochs'"),
        ("fit.epochs", "must be SECTION.KEY=VALUE"),
        ("fit.epochs=0", "greater than or equal to 1"),
        ("fit.epochs=many", "valid integer"),
        ("model.norm=mid", "'pre' or 'post'"),
    ],
)
def test_a_wrong_setting_exits_with_2_and_writes_nothing(
    start: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    assignment: str,
    message: str,
) -> None:
    assert main(["run", *start, "--set", assignment]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_settings_for_an_old_run_exit_with_2(
    start: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", *start]) == 0
    assert main(["run", *start, "--sample-users", "4"]) == 2
    assert "data.sample_users is None there, 4 was asked for" in capsys.readouterr().err


def test_changed_data_is_noticed_by_every_step(
    start: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", *start]) == 0
    write_dataset(random_dataset(1), tmp_path / "data", overwrite=True)
    assert main(["fit", "--run", str(tmp_path / "run")]) == 2
    assert "is other than" in capsys.readouterr().err


def test_bad_data_exits_with_2_or_is_left_out_and_listed(
    start: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "data" / "video_events.parquet"
    table.unlink()
    rows = [
        f"u{user},v{video},{1_700_000_000_000 + video}" for user in range(4) for video in range(6)
    ]
    lines = ["user_id,video_id,timestamp", *rows, "u1,nowhere,1700000000000"]
    table.with_suffix(".csv").write_text("\n".join(lines) + "\n")
    assert main(["embed", *start]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["embed", *start, "--skip-bad-rows"]) == 0
    assert "left out 1 bad rows" in capsys.readouterr().out
    assert "nowhere" in (tmp_path / "run" / "skipped_rows.csv").read_text()


@pytest.mark.parametrize("command", ["", "run", "embed", "fit", "evaluate", "report", "data"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: python -m training" in capsys.readouterr().out
