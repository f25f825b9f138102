"""A live service for the client."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_service import running_service

from lsvcr_client import Client


@pytest.fixture(scope="session")
def live_url(tiny_master: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of two models that a test may activate."""
    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(tiny_master, folder / "registry")
    with running_service(folder / "registry", folder) as url:
        yield url


@pytest.fixture
def live(live_url: str) -> Iterator[Client]:
    with Client(live_url, timeout_ms=30_000) as client:
        yield client
