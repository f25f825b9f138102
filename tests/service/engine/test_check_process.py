"""A bundle's files are checked by a process of their own while others are answered."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bundle_builder import sign

from lsvcr.bundle import load_bundle
from lsvcr.errors import BundleError
from service.engine import check_process
from service.engine.check_process import check_apart


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def run_instead(program: Path, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another program do the check."""
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_sound_bundle_passes(bundle: Path) -> None:
    check_apart(bundle)


@pytest.mark.parametrize(
    ("file", "is_signed"),
    [
        ("tables/video_query_VD.npy", False),  # checksum
        ("catalogue/comment_text.blob.npy", True),  # no UTF-8 any more
        ("tables/comment_input_CD.npy", True),  # not finite any more
    ],
)
def test_the_reason_is_the_one_that_a_check_here_gives(
    bundle: Path, file: str, is_signed: bool
) -> None:
    content = bytearray((bundle / file).read_bytes())
    content[-4:] = b"\xff" * 4
    (bundle / file).write_bytes(content)
    if is_signed:
        sign(bundle)
    with pytest.raises(BundleError) as here:
        load_bundle(bundle)
    with pytest.raises(BundleError) as apart:
        check_apart(bundle)
    assert str(apart.value) == str(here.value)


def test_a_check_that_gets_no_idle_time_is_made_without_waiting_for_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_process, "PATIENCE_S", 0.2)
    lines = '[ "$4" = idle ] && exec sleep 60\nprintf "checked in haste: %s" "$4"; exit 1'
    run_instead(tmp_path / "program", lines, monkeypatch)
    with pytest.raises(BundleError, match="checked in haste: nice"):
        check_apart(tmp_path)


def test_a_name_that_is_no_text_is_told_all_the_same(bundle: Path) -> None:
    (bundle / os.fsdecode(b"tables/\xff")).touch()
    with pytest.raises(BundleError, match="is not listed in the manifest"):
        check_apart(bundle)


def test_a_check_that_comes_to_no_end_refuses(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(tmp_path / "killed", "kill -9 $$", monkeypatch)
    with pytest.raises(BundleError, match=f"ended with status -{signal.SIGKILL.value}"):
        check_apart(bundle)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(BundleError, match="can't begin: No such file"):
        check_apart(bundle)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no such policy")
def test_whoever_has_something_to_do_goes_first(bundle: Path) -> None:
    program = (
        "import os, pathlib; from service.engine.check_process import main\n"
        f"status = main(pathlib.Path({str(bundle)!r}), 'idle')\n"
        "print(status, os.sched_getscheduler(0) == os.SCHED_IDLE)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"0", b"True"]
