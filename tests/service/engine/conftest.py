from pathlib import Path

import pytest

from lsvcr.bundle import load_bundle
from service.engine.bundle_opening import open_ranker
from service.engine.ranker import Ranker


@pytest.fixture(scope="session")
def ranker(tiny_bundle: Path) -> Ranker:
    """The tiny bundle, opened on the CPU."""
    return open_ranker(load_bundle(tiny_bundle), "cpu", max_batch=4)[0]
