import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from export.publish import new_version, publishing, remove_old, staged
from lsvcr.bundle import MANIFEST
from lsvcr.errors import BundleError
from lsvcr.registry import list_versions, write_current

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def publish(registry: Path, version: str) -> None:
    with publishing(registry), staged(registry, version) as folder:
        (folder / "tables").mkdir()
        (folder / "tables" / "a.npy").write_bytes(b"table")
        (folder / MANIFEST).write_text("{}")


def test_a_version_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with publishing(tmp_path), staged(tmp_path, "v1") as folder:
        (folder / MANIFEST).write_text("{}")
        assert list_versions(tmp_path) == []
    assert list_versions(tmp_path) == ["v1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".publish.lock", "v1"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_publish_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    publish(tmp_path, "v1")
    with pytest.raises(error), publishing(tmp_path), staged(tmp_path, "v2") as folder:
        (folder / MANIFEST).write_text("{}")
        raise error
    assert sorted(path.name for path in tmp_path.iterdir()) == [".publish.lock", "v1"]


def test_a_full_disk_is_told_in_one_message(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match=r"version v1 cannot be written: .*No space left"),
        publishing(tmp_path),
        staged(tmp_path, "v1"),
    ):
        raise OSError(28, "No space left on device")
    assert list_versions(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from export.publish import publishing, staged
registry = Path(sys.argv[1])
with publishing(registry), staged(registry, "v2") as folder:
    (folder / "manifest.json").write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_publish_is_invisible_and_cleaned_up_by_the_next(tmp_path: Path) -> None:
    publish(tmp_path, "v1")
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert (tmp_path / ".v2.partial" / MANIFEST).exists()
    assert list_versions(tmp_path) == ["v1"]
    publish(tmp_path, "v3")
    assert list_versions(tmp_path) == ["v1", "v3"]
    assert not (tmp_path / ".v2.partial").exists()


def test_what_an_activation_died_over_is_cleaned_up_once_it_is_old(tmp_path: Path) -> None:
    for name, age_s in ((".current.json.old", 3600), (".current.json.new", 0)):
        (tmp_path / name).touch()
        at_s = time.time() - age_s
        os.utime(tmp_path / name, (at_s, at_s))
    publish(tmp_path, "v1")
    assert not (tmp_path / ".current.json.old").exists()
    assert (tmp_path / ".current.json.new").exists()


def test_only_one_process_publishes_at_a_time(tmp_path: Path) -> None:
    with (
        publishing(tmp_path),
        staged(tmp_path, "v1") as folder,
        pytest.raises(BundleError, match="another export is publishing"),
        publishing(tmp_path),
    ):
        pass
    assert not folder.exists() and (tmp_path / "v1").exists()


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    publish(tmp_path, "v1")
    with pytest.raises(BundleError, match="already has a version 'v1'"):
        publish(tmp_path, "v1")
    assert list_versions(tmp_path) == ["v1"]


def test_the_oldest_go_but_never_the_current_or_the_previous_one(tmp_path: Path) -> None:
    for number in range(1, 8):
        publish(tmp_path, f"v{number}")
    write_current(tmp_path, "v2")
    write_current(tmp_path, "v1")
    with publishing(tmp_path):
        assert remove_old(tmp_path, keep=4) == ["v3", "v4", "v5"]
    assert list_versions(tmp_path) == ["v1", "v2", "v6", "v7"]


def test_three_are_kept_whatever_is_asked_for(tmp_path: Path) -> None:
    for number in range(1, 6):
        publish(tmp_path, f"v{number}")
    with publishing(tmp_path):
        assert remove_old(tmp_path, keep=0) == ["v1", "v2"]
        assert remove_old(tmp_path, keep=0) == []
    assert list_versions(tmp_path) == ["v3", "v4", "v5"]


def test_versions_sort_by_age_and_differ_within_a_second() -> None:
    first, same_second, later = (
        new_version(NOON + timedelta(milliseconds=ms), "data") for ms in (0, 1, 1000)
    )
    assert first.startswith("20261123T120000Z-") and len(first) == len("20261123T120000Z-3f2a")
    assert first != same_second
    assert max(first, same_second) < later


def test_a_registry_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BundleError, match="file/registry cannot be written"),
        publishing(tmp_path / "file" / "registry"),
    ):
        pass


def test_files_are_readable_for_a_service_of_another_user(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        publish(tmp_path, "v1")
    finally:
        os.umask(before)
    assert (tmp_path / "v1").stat().st_mode & 0o055 == 0o055
