"""Bundles into the registry: whole or not at all, and old ones out.

A bundle is written to `.<version>.partial` and renamed when it is complete and on disk. One
process publishes at a time, so whatever is partial when it begins was left by one that died.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from lsvcr.errors import BundleError
from lsvcr.registry import CURRENT, list_versions, read_current

LOCK = ".publish.lock"
PARTIAL = ".partial"
MIN_KEPT = 3
STALE_S = 60
"""Writing `current.json` takes milliseconds."""


def new_version(created_at: datetime, data_fingerprint: str) -> str:
    """Name a bundle by its time (UTC, so that names sort by age) and a short hash."""
    created_at = created_at.astimezone(UTC)
    digest = hashlib.sha256(f"{created_at.isoformat()} {data_fingerprint}".encode())
    return f"{created_at:%Y%m%dT%H%M%SZ}-{digest.hexdigest()[:4]}"


@contextmanager
def publishing(registry: Path) -> Iterator[None]:
    """Be the only one that publishes to a registry, created if need be; clean up after the dead.

    Raises:
        BundleError: If another process is publishing, or the folder can't be written.
    """
    try:
        registry.mkdir(parents=True, exist_ok=True)
        lock = (registry / LOCK).open("w")
    except OSError as error:
        raise BundleError(f"registry {registry} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released even by kill -9
        except OSError as error:
            raise BundleError(f"registry {registry}: another export is publishing") from error
        for stale in registry.glob(f".*{PARTIAL}"):
            shutil.rmtree(stale)
        for stale in registry.glob(f".{CURRENT}.*"):
            _remove_if_old(stale)
        yield


@contextmanager
def staged(registry: Path, version: str) -> Iterator[Path]:
    """Yield an empty folder to write a bundle to; it becomes `registry/<version>` in one step.

    If the body raises, nothing is left. Call within `publishing`.

    Raises:
        BundleError: If the version exists, or can't be written.
    """
    final, partial = registry / version, registry / f".{version}{PARTIAL}"
    if final.exists():
        raise BundleError(f"the registry already has a version {version!r}")
    try:
        partial.mkdir()
        yield partial
        _sync_tree(partial)
        os.replace(partial, final)
        _sync(registry)
    except OSError as error:
        raise BundleError(f"version {version} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already if all went well


def remove_old(registry: Path, keep: int) -> list[str]:
    """Delete the oldest versions but never the current or the previous one; within `publishing`.

    Args:
        registry: The registry's folder.
        keep: How many versions to keep, at least `MIN_KEPT`.

    Returns:
        The versions deleted.
    """
    current = read_current(registry)
    needed = {current.version, current.previous} if current else set()
    versions = list_versions(registry)
    removable = [version for version in versions if version not in needed]
    removed = removable[: max(0, len(versions) - max(keep, MIN_KEPT))]
    for version in removed:
        doomed = registry / f".{version}{PARTIAL}"  # at once invisible, if we die while deleting
        os.replace(registry / version, doomed)
        shutil.rmtree(doomed)
    return removed


def _remove_if_old(path: Path) -> None:
    """Remove what somebody died over; what is young may be a service's that is activating now."""
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > STALE_S:
            path.unlink()


def _sync_tree(folder: Path) -> None:
    """Bring files and names to the disk: the rename must not get there first."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
