from pathlib import Path

import pytest

from lsvcr.errors import BundleError
from lsvcr.registry import list_versions, read_current, write_current


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    for name in ("v2", "v1", "v3", ".v4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "half").mkdir()
    return tmp_path


def test_versions_are_finished_bundles_in_order(registry: Path) -> None:
    assert list_versions(registry) == ["v1", "v2", "v3"]


def test_a_missing_registry_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="'nowhere' cannot be read"):
        list_versions(tmp_path / "nowhere")


def test_nothing_is_current_before_the_first_activation(registry: Path) -> None:
    assert read_current(registry) is None


def test_activation_remembers_what_was_current_before(registry: Path) -> None:
    assert write_current(registry, "v1").previous is None
    assert write_current(registry, "v2").previous == "v1"
    assert write_current(registry, "v2").previous == "v1"
    current = write_current(registry, "v3")
    assert (current.version, current.previous) == ("v3", "v2")
    assert read_current(registry) == current


def test_activation_leaves_no_file_beside(registry: Path) -> None:
    before = {path.name for path in registry.iterdir()}
    write_current(registry, "v1")
    assert {path.name for path in registry.iterdir()} == before | {"current.json"}


@pytest.mark.parametrize("version", ["v9", ".v4", "half", "../v1", ""])
def test_only_versions_of_the_registry_become_current(registry: Path, version: str) -> None:
    with pytest.raises(BundleError, match="no version"):
        write_current(registry, version)
    assert read_current(registry) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "v1"}', '{"version": ""}'])
def test_a_damaged_current_file_is_refused(registry: Path, text: str) -> None:
    (registry / "current.json").write_text(text)
    with pytest.raises(BundleError, match=r"current\.json"):
        read_current(registry)


def test_to_activate_a_version_mends_a_damaged_file(registry: Path) -> None:
    (registry / "current.json").write_text("{")
    write_current(registry, "v1")
    current = read_current(registry)
    assert current is not None
    assert (current.version, current.previous) == ("v1", None)
