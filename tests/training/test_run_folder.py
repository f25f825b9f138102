import fcntl
import json
from pathlib import Path

import pytest

from lsvcr.errors import DataError
from training.config import PRESETS
from training.run_folder import RunFolder, Source

TINY = PRESETS["tiny"]
SOURCE = Source("data", "d1")


def make(path: Path, config=TINY, source: Source = SOURCE) -> RunFolder:
    return RunFolder.make(path, config, source, Path("text_vectors"))


def test_what_was_made_is_opened_again(tmp_path: Path) -> None:
    config = TINY.override(["fit.epochs=7", "model.norm=post"])
    made = make(tmp_path / "run", config)
    assert RunFolder.open(tmp_path / "run") == made
    assert make(tmp_path / "run", config) == made
    description = json.loads((tmp_path / "run" / "config.json").read_text())
    assert description["settings"]["fit"]["epochs"] == 7
    assert description["versions"]["torch"]


def test_other_settings_or_other_data_are_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(DataError, match=r"fit.epochs is 3 there, 9 was asked for.*--out"):
        make(tmp_path / "run", TINY.override(["fit.epochs=9"]))
    with pytest.raises(DataError, match=r"the data of data is other than data was"):
        make(tmp_path / "run", source=Source("data", "d2"))
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_the_same_data_elsewhere_is_the_same_run(tmp_path: Path) -> None:
    make(tmp_path / "run")
    make(tmp_path / "run", source=Source("moved", "d1"))
    assert RunFolder.open(tmp_path / "run").source.folder == "moved"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    with pytest.raises(DataError, match="neither empty nor a run folder"):
        make(tmp_path / "letters")
    with pytest.raises(DataError, match="neither empty nor a run folder"):
        make(tmp_path / "letters" / "dear.txt")
    with pytest.raises(DataError, match="is no run folder"):
        RunFolder.open(tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.update(format=2), "format = 2: Input should be 1"),
        (lambda run: run["settings"]["fit"].update(magic=1), r"settings.fit.magic = 1: Extra"),
        (lambda run: run["settings"]["fit"].update(epochs="7"), "settings.fit.epochs = '7'"),
        (lambda run: run["source"].update(owner="me"), "source.owner = 'me'"),
        (lambda run: run.update(versions=None), "versions = None.* of an unknown version"),
        (lambda run: run.pop("source"), "source: Field required"),
    ],
)
def test_a_run_of_another_version_is_refused(tmp_path: Path, change, message: str) -> None:
    make(tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    description = json.loads(file.read_text())
    description["versions"]["lsvcr"] = "0.0.7"
    change(description)
    file.write_text(json.dumps(description))
    with pytest.raises(DataError, match=message) as caught:
        RunFolder.open(tmp_path / "run")
    if description["versions"]:
        assert f"written by lsvcr 0.0.7 (revision {description['git_revision']})" in str(
            caught.value
        )
    file.write_text("{")
    with pytest.raises(DataError, match=r"config.json: cannot be read"):
        RunFolder.open(tmp_path / "run")


def test_a_step_is_done_until_it_is_finished_and_then_skipped(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    with pytest.raises(DataError, match="`fit` is not finished"):
        run.need("fit")
    assert run.begin("fit", {"data": "d1"})
    assert run.begin("fit", {"data": "d1"}), "interrupted: it goes on"
    with pytest.raises(DataError, match="`fit` is not finished"):
        run.need("fit")
    run.finish("fit")
    assert not run.begin("fit", {"data": "d1"})
    assert run.need("fit")


def test_a_step_begun_from_other_inputs_is_refused_by_name(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.begin("fit", {"data": "d1", "text vectors": "t1"})
    with pytest.raises(DataError, match="begun with other text vectors; choose another --out"):
        run.begin("fit", {"data": "d1", "text vectors": "t2"})


def test_a_line_cut_short_by_a_crash_is_no_part_of_the_log(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.log("embed", texts=3)
    with (run.path / "log.jsonl").open("a") as file:
        file.write('{"step": "fi')
    assert [(line["step"], line["texts"]) for line in run.read_log()] == [("embed", 3)]


def test_two_processes_never_work_on_one_run(tmp_path: Path) -> None:
    run = make(tmp_path)
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is at work on this run"):
            run.hold()
    run.hold()
    run.hold()  # again, as after an error that ended a step
    with (tmp_path / ".lock").open("w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        run.release()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_keeps_the_revision_it_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.run_folder._git_revision", lambda: "first")
    make(tmp_path)
    monkeypatch.setattr("training.run_folder._git_revision", lambda: "second")
    again = make(tmp_path, source=Source("/elsewhere", "d1"))
    assert again.description()["git_revision"] == "first"
    assert again.description()["source"]["folder"] == "/elsewhere"
