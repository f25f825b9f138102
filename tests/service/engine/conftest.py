from pathlib import Path

import pytest
from tiny_bundle_builder import PRIOR, PROFILE, write_tiny_bundle

from lsvcr.bundle import load_bundle
from service.engine.bundle_opening import open_ranker
from service.engine.ranker import Ranker


@pytest.fixture(scope="session")
def ranker(tiny_bundle: Path) -> Ranker:
    """The tiny bundle, opened on the CPU."""
    return open_ranker(load_bundle(tiny_bundle), "cpu", max_batch=4)[0]


@pytest.fixture(scope="session")
def whole_ranker(tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    """A tiny bundle with popularity prior and profile similarity; its counts are for tests."""
    folder = tmp_path_factory.mktemp("whole") / "whole"
    write_tiny_bundle(folder, version="whole", prior=PRIOR, profile=PROFILE)
    return open_ranker(load_bundle(folder), "cpu", max_batch=4)[0]
