"""The registry: a folder of bundles, and `current.json`, which says which of them is served.

    registry/<version>/        one bundle each; still being written while its name starts with "."
    registry/current.json      {"version": …, "previous": … | null, "activated_at": ISO 8601}

`current.json` is replaced in one step, so a reader sees the old or the new one and never a half.
"""

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lsvcr.bundle import MANIFEST, VERSION_PATTERN
from lsvcr.errors import BundleError

CURRENT = "current.json"


class Current(BaseModel):
    """`current.json`.

    Attributes:
        previous: What was current before: where a rollback goes. None for the first version.
        activated_at: ISO 8601 with time zone.
    """

    model_config = ConfigDict(frozen=True)

    version: str = Field(pattern=VERSION_PATTERN)
    previous: str | None = Field(pattern=VERSION_PATTERN)
    activated_at: str


def list_versions(registry: Path) -> list[str]:
    """Name the bundles of a registry, ascending: oldest first, as versions begin with their time.

    Raises:
        BundleError: If the registry can't be read.
    """
    try:
        return sorted(
            folder.name
            for folder in registry.iterdir()
            if not folder.name.startswith(".") and (folder / MANIFEST).is_file()
        )
    except OSError as error:
        raise BundleError(f"registry {registry.name!r} cannot be read: {error.strerror}") from error


def read_current(registry: Path) -> Current | None:
    """Read `current.json`; None while nothing was ever activated.

    Raises:
        BundleError: If the file is damaged or can't be read.
    """
    try:
        return Current.model_validate_json((registry / CURRENT).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{CURRENT} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BundleError(f"{CURRENT}: {where}: {first['msg']}") from error


def write_current(registry: Path, version: str) -> Current:
    """Make a version of the registry the current one; its predecessor becomes `previous`.

    Activating the current version again changes its time only, so that `previous` stays useful.

    Raises:
        BundleError: If the registry has no such version, or can't be written.
    """
    if version not in list_versions(registry):
        raise BundleError(f"the registry has no version {version!r}")
    previous = None
    try:
        before = read_current(registry)
    except BundleError:  # to activate a version mends a damaged file
        before = None
    if before is not None:
        previous = before.previous if before.version == version else before.version
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    current = Current(version=version, previous=previous, activated_at=now)
    try:
        _replace(registry / CURRENT, current.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise BundleError(f"{CURRENT} cannot be written: {error.strerror}") from error
    return current


def _replace(path: Path, text: str) -> None:
    """Write beside and rename; the new file is on disk before it gets its name."""
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)  # mkstemp's 0600 would hide it from a service of another user
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
