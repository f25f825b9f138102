import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tiny_bundle_builder import TINY_VERSIONS, write_tiny_bundle

from lsvcr.registry import read_current, write_current

# A busy machine must not fail a test: none has a time limit.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


TAKE_LONGEST = ("tests/test_tutorial.py", "tests/export/")
"""Begun last, they would leave the other process of `pytest -n 2` without work."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        starts = map(item.nodeid.startswith, TAKE_LONGEST)
        return next((turn for turn, is_it in enumerate(starts) if is_it), len(TAKE_LONGEST))

    items.sort(key=turn)


@pytest.fixture(scope="session")
def tiny_master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry of two tiny bundles, the first one current; shared, so nobody may change it."""
    registry = tmp_path_factory.mktemp("tiny") / "registry"
    for seed, version in enumerate(TINY_VERSIONS):
        write_tiny_bundle(registry / version, version=version, seed=seed)
    current = write_current(registry, TINY_VERSIONS[0])
    yield registry
    assert read_current(registry) == current, "a test activated a version for all others"


@pytest.fixture(scope="session")
def tiny_bundle(tiny_master: Path) -> Path:
    """The folder of a bundle of 50 videos and 200 comments; nobody may change it."""
    return tiny_master / TINY_VERSIONS[0]


@pytest.fixture
def tiny_registry(tiny_master: Path, tmp_path: Path) -> Path:
    """A registry of two tiny bundles, the first one current, for one test to change."""
    return Path(shutil.copytree(tiny_master, tmp_path / "registry"))
