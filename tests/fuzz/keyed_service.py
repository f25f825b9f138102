"""A service that runs, with a key for each role."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_service import running_service

KEYS = {"admin": "adm-key", "recommend": "rec-key", "ingest": "ing-key"}


@contextlib.contextmanager
def keyed_service(registry: Path, folder: Path, *arguments: str) -> Iterator[str]:
    """Yields its URL; it must not have logged an error by the end.

    Args:
        registry: Is copied, as whoever has an admin's key may activate another version.
        folder: For the copy and all else that the service writes.
    """
    registry = shutil.copytree(registry, folder / "registry")
    with pytest.MonkeyPatch.context() as environment:
        for role, key in KEYS.items():
            environment.setenv(f"LSVCR_{role.upper()}_KEYS", key)
        with running_service(registry, folder, "--host", "127.0.0.1", *arguments) as url:
            yield url
        assert '"level": "error"' not in (folder / "log").read_text()
