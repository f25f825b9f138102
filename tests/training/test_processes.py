"""Whole runs in several processes, as `torchrun` starts them, and what they share."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_causal_model import save_tiny_causal_model
from together import run_together
from worlds import config, prepared_world, random_dataset, random_text, read_log

from training import processes
from training.__main__ import main
from training.dataset_folder import write_dataset
from training.fit import fit

SETTINGS = (
    "data.min_events=1", "fit.epochs=2", "fit.batch_rows=4", "fit.device=cpu", "model.dropout=0",
    "align.epochs=1", "align.max_samples=24", "model.prior_half_lives_days=[]",
)  # fmt: skip


@pytest.fixture
def start(tmp_path):
    """The arguments of `run`, but for its folder."""
    write_dataset(random_dataset(0), tmp_path / "data")
    settings = (*SETTINGS, f"text.language_model={save_tiny_causal_model(tmp_path / 'model')}")
    assignments = [word for setting in settings for word in ("--set", setting)]
    return ["--data", str(tmp_path / "data"), "--preset", "tiny", *assignments]


def run_by_torchrun(*arguments, program=("-m", "training"), count=2):
    """`torchrun --nproc_per_node 2 -m training …`."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launch, "--nproc_per_node", str(count), *program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


LATE_IMPORT = """
import weakref
import torch.distributed
from training import processes
with processes.joined():
    import torch.distributed.nn
    group = weakref.ref(torch.distributed.group.WORLD)
print(group())
"""


def test_no_thread_of_the_group_lives_on_whatever_was_imported_meanwhile(tmp_path):
    script = tmp_path / "late_import.py"
    script.write_text(LATE_IMPORT)
    done = run_by_torchrun(program=[str(script)])
    assert (done.returncode, done.stdout.count("None")) == (0, 2), done.stderr


def test_a_run_in_two_processes_is_the_run_of_one(start, tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["run", *start, "--out", str(one)]) == 0
    done = run_by_torchrun("run", *start, "--out", str(two))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loading the language model") == 1
    assert done.stdout.count("report.html") == 1

    # What profiles compare is shared by both runs, so the first alone embedded it.
    of_one = [entry for entry in read_log(one) if entry.get("kind") not in ("embed", "trigrams")]
    assert [entry["step"] for entry in read_log(two)] == [entry["step"] for entry in of_one]
    for entry, expected in zip(read_log(two), of_one, strict=True):
        for name in ("losses", "texts"):
            if name in expected:
                assert entry[name] == pytest.approx(expected[name], abs=2e-3)
    metrics, expected = (json.loads((run / "metrics.json").read_text()) for run in (two, one))
    assert metrics["baselines"]["popularity"] == expected["baselines"]["popularity"]
    for task, ranking in (("video", "sampled"), ("video", "full"), ("comment", "thread")):
        assert metrics[task][ranking] == pytest.approx(expected[task][ranking], abs=0.05)
        assert metrics[task][ranking]["users"] == expected[task][ranking]["users"]
    assert not list(two.rglob("sample-*"))

    capsys.readouterr()
    assert main(["run", *start, "--out", str(two)]) == 0
    assert "fit: finished before" in capsys.readouterr().out


def test_an_error_of_the_first_process_ends_all(start, tmp_path):
    (tmp_path / "file").write_text("no run folder")
    done = run_by_torchrun("run", *start, "--out", str(tmp_path / "file"))
    assert done.returncode == 1
    assert "is neither empty nor a run folder" in done.stderr


def fit_in_fp32(folder):
    torch.autocast = lambda *_, **__: contextlib.nullcontext()  # rounding to bf16 hides more
    folder.mkdir(exist_ok=True)
    run = config(
        "fit.batch_rows=4", "fit.epochs=8", "fit.patience=8", "model.dropout=0", "fit.device=cuda"
    )
    prepared = prepared_world(5, run)
    fit(prepared, random_text(prepared), run, folder)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_two_gpus_come_to_what_one_does_in_recorded_steps(tmp_path):
    for count in (1, 2):
        run_together(count, fit_in_fp32, tmp_path / str(count))
    one, two = read_log(tmp_path / "1"), read_log(tmp_path / "2")
    assert len(one) == 8
    for entry, expected in zip(two, one, strict=True):
        assert entry["losses"] == pytest.approx(expected["losses"], abs=1e-3)


def check_what_is_shared():
    rank = processes.rank()
    assert processes.count() == 3
    assert [processes.own_part(7), processes.own_part(2)] == [
        [slice(0, 2), slice(0, 0)],
        [slice(2, 4), slice(0, 1)],
        [slice(4, 7), slice(1, 2)],
    ][rank]
    assert processes.gather([rank] * rank) == [1, 2, 2]
    tensors = [torch.full((2, 2), float(rank)), torch.tensor(rank + 0.5)]
    processes.add_up(tensors)
    assert tensors[0].tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert tensors[1].item() == 4.5
    processes.take_from_first([own := torch.tensor([rank])])
    assert own.item() == 0


def write_in_turn(path):
    with processes.first_goes_ahead():
        if processes.is_first():
            path.write_text("written")
        assert path.read_text() == "written"


def test_what_processes_share_by_hand(tmp_path):
    run_together(3, check_what_is_shared)
    run_together(3, write_in_turn, tmp_path / "file")
