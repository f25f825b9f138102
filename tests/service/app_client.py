"""Starts whole applications for tests."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings


def make_settings(registry: Path, store_url: str, **changes: Any) -> Settings:
    """Settings for a busy test machine: patient with the store and the model."""
    patient = {"deadline_ms": 30_000, "store_timeout_ms": 5_000, "store_write_timeout_ms": 5_000}
    return Settings(registry=registry, redis=store_url, device="cpu", **{**patient, **changes})


@contextlib.contextmanager
def serve(settings: Settings) -> Iterator[TestClient]:
    """A client of a running application; a 500 comes back as an answer, as it does to users."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
