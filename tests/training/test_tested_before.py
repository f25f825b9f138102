import json
import shutil
from pathlib import Path

from tests.training.worlds import config
from training.checkpoint import BEST
from training.run_folder import RunFolder, Source
from training.tested_before import checkpoint_hash, earlier_tests


def make(path: Path, weights: bytes, *settings: str) -> RunFolder:
    run = RunFolder.make(path, config(*settings), Source("data", "content"), path / "vectors")
    (path / BEST).parent.mkdir()
    (path / BEST).write_bytes(weights)
    return run


def measure(run: RunFolder) -> None:
    run.log(
        "evaluate",
        config_hash=run.config.short_hash,
        checkpoint=checkpoint_hash(run),
        data=run.source.fingerprint,
    )


def test_only_another_checkpoint_of_the_same_configuration_counts(tmp_path: Path) -> None:
    first = make(tmp_path / "first", b"one")
    measure(first)
    measure(make(tmp_path / "other settings", b"two", "fit.seed=7"))
    (tmp_path / "no run").mkdir()
    assert earlier_tests(first) == [], "its own figures again"
    assert earlier_tests(make(tmp_path / "second", b"two")) == [first.path]

    (first.path / BEST).write_bytes(b"fitted anew")
    assert earlier_tests(first) == [first.path]


def test_logs_of_earlier_versions_are_read(tmp_path: Path) -> None:
    run = make(tmp_path / "run", b"one")
    shutil.copytree(run.path, tmp_path / "old")
    (tmp_path / "old" / "log.jsonl").write_text(json.dumps({"step": "evaluate"}) + "\n")
    assert earlier_tests(run) == []
