from pathlib import Path

import pytest
from engine_questions import open_ranker
from tiny_bundle_builder import PRIOR, PROFILE, REPEAT, write_tiny_bundle

from service.engine.ranker import Ranker


@pytest.fixture(scope="session")
def ranker(tiny_bundle: Path) -> Ranker:
    """The tiny bundle, opened on the CPU."""
    return open_ranker(tiny_bundle)


@pytest.fixture(scope="session")
def whole_ranker(tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    """A tiny bundle with all parts of a score; its counts are for tests."""
    folder = tmp_path_factory.mktemp("whole") / "whole"
    write_tiny_bundle(folder, version="whole", prior=PRIOR, repeat_logit=REPEAT, profile=PROFILE)
    return open_ranker(folder)
