from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from app_client import make_settings, serve
from starlette.testclient import TestClient

from service.embedded_store import EmbeddedStore
from service.history_store import HistoryStore


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey, shared: every test takes users of its own."""
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as embedded:
        yield embedded.url


@pytest.fixture
def make_store(store_url: str) -> Callable[..., HistoryStore]:
    """Builds stores on the shared server; patient, since the test machine may be busy."""

    def make(url: str = store_url, **settings: int) -> HistoryStore:
        defaults = {
            "read_timeout_ms": 5_000,
            "write_timeout_ms": 5_000,
            "max_events": 200,
            "expiry_s": 3600,
        }
        return HistoryStore(url, **{**defaults, **settings})

    return make


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(scope="module")
def client(tiny_master: Path, store_url: str) -> Iterator[TestClient]:
    """A running application without keys, shared by a file's tests: take users of your own."""
    with serve(make_settings(tiny_master, store_url)) as client:
        yield client


@pytest.fixture
def user() -> str:
    return f"user-{uuid4()}"
