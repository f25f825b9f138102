from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
