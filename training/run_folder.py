"""The folder of one training run: what was asked for, what is finished, what came out.

RUN/
  config.json      every setting as used; data and code they were used with
  steps.json       which steps were begun and finished, from which inputs
  log.jsonl        one line per finished step or epoch
  checkpoints/     written by `align` and `fit`
  text_vectors/    of an aligned language model, written by `embed`
  metrics.json     written by `evaluate`
  report.html      written by `report`
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, ValidationError

from lsvcr import __version__
from lsvcr.errors import DataError
from training.config import RunConfig

LIBRARIES = ("numpy", "peft", "polars", "safetensors", "torch", "transformers")

Step = Literal["align", "fit", "evaluate"]

_held: dict[Path, IO[str]] = {}
"""Locks of the runs that this process is at work on."""


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Source:
    """The data a run learns from.

    Attributes:
        folder: The dataset folder.
        fingerprint: Of its content; where it lies may change, this may not.
        skip_bad_rows: Whether bad rows are left out of it.
    """

    folder: str
    fingerprint: str
    skip_bad_rows: bool = False


class Description(BaseModel):
    """What `config.json` holds, and all that it may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    settings: RunConfig
    source: Source
    text_vectors: Path
    versions: dict[str, str | None]
    git_revision: str | None

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read it; a value that this version would not write is refused.

        Raises:
            DataError: Naming the value and the version that wrote it.
        """
        content = _read_json(file)
        try:
            return cls.model_validate_json(json.dumps(content), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            value = "" if first["type"] == "missing" else f" = {first['input']!r}"
            versions = content.get("versions")
            writer = versions.get("lsvcr") if isinstance(versions, dict) else None
            raise DataError(
                f"{file}: {where}{value}: {first['msg']}. It was written by lsvcr "
                f"{writer or 'of an unknown version'} (revision {content.get('git_revision')}), "
                f"this is {__version__} (revision {_git_revision()}); begin anew in another folder"
            ) from error


@dataclass(frozen=True)
class RunFolder:
    """A run folder that was opened or made, with its settings.

    Attributes:
        text_vectors: The store of text vectors that the run shares with others.
    """

    path: Path
    config: RunConfig
    source: Source
    text_vectors: Path

    @classmethod
    def make(cls, path: Path, config: RunConfig, source: Source, text_vectors: Path) -> Self:
        """Make a run folder, or open the one that is there if it is of the same run.

        Raises:
            DataError: If `path` is something else, or a run with other settings or data; it says
                what differs.
        """
        run = cls(path, config, source, text_vectors)
        if (path / "config.json").exists():
            found = cls.open(path)
            _refuse_differences(found, config, source)
            # The data may have moved; what made the run stays as it was.
            moved = {"source": source, "text_vectors": text_vectors}
            description = Description.read(path / "config.json").model_copy(update=moved)
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DataError(f"{path}: is neither empty nor a run folder; choose another --out")
        else:
            description = run._description()
        path.mkdir(parents=True, exist_ok=True)
        _write_json(path / "config.json", description.model_dump(mode="json"))
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a run folder.

        Raises:
            DataError: If it isn't one, or is of another version of this program.
        """
        file = path / "config.json"
        if not file.is_file():
            raise DataError(f"{path}: is no run folder (it has no config.json)")
        found = Description.read(file)
        return cls(path, found.settings, found.source, found.text_vectors)

    def hold(self) -> None:
        """Keep other processes from working on this run until `release`, or this one's end.

        Raises:
            DataError: If another one is at work: both would write the same files.
        """
        path = self.path.resolve()
        if path in _held:
            return
        lock = (path / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released even by kill -9
        except BlockingIOError as error:
            lock.close()
            raise DataError(
                f"{self.path}: another process is at work on this run; wait for it, or end it"
            ) from error
        _held[path] = lock

    def release(self) -> None:
        """Let other processes work on this run."""
        _held.pop(self.path.resolve()).close()

    def begin(self, step: Step, inputs: dict[str, Any]) -> bool:
        """Note what a step is made from; return whether it still has to be done.

        Raises:
            DataError: If the step was begun from other inputs: what lies here would be mixed.
        """
        steps = self._steps()
        fingerprint = _fingerprint(inputs)
        known = steps.get(step)
        if known and known["fingerprint"] != fingerprint:
            changed = [name for name in inputs if known["inputs"].get(name) != inputs[name]]
            raise DataError(
                f"{self.path}: `{step}` was begun with other {', '.join(changed) or 'inputs'}; "
                f"choose another --out, or delete {self.path}"
            )
        if not known:
            steps[step] = {"fingerprint": fingerprint, "inputs": inputs, "finished": None}
            _write_json(self.path / "steps.json", steps)
        return not (known and known["finished"])

    def finish(self, step: Step) -> None:
        """Note that a step is done."""
        steps = self._steps()
        steps[step]["finished"] = _now()
        _write_json(self.path / "steps.json", steps)

    def is_finished(self, step: Step) -> bool:
        """Whether a step is done."""
        return bool(self._steps().get(step, {}).get("finished"))

    def need(self, step: Step) -> str:
        """The fingerprint of a finished step.

        Raises:
            DataError: If it isn't finished.
        """
        known = self._steps().get(step)
        if not known or not known["finished"]:
            raise DataError(
                f"{self.path}: `{step}` is not finished; first run "
                f"`python -m training {step} --run {self.path}`"
            )
        return str(known["fingerprint"])

    def log(self, step: str, **facts: Any) -> None:
        """Append one line to `log.jsonl`."""
        with (self.path / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "at": _now(), **facts}) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """All lines of `log.jsonl`; a last line cut short by a crash is left out."""
        return self.read_log_of(self.path)

    @staticmethod
    def read_log_of(folder: Path) -> list[dict[str, Any]]:
        """The same of a folder that need not be of this version."""
        path = folder / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write `metrics.json`."""
        _write_json(self.path / "metrics.json", metrics)

    def read_metrics(self) -> dict[str, Any]:
        """Read `metrics.json`; raises DataError if `evaluate` has not written it."""
        self.need("evaluate")
        return _read_json(self.path / "metrics.json")

    def description(self) -> dict[str, Any]:
        """`config.json` as it was last written: also versions and the code's revision."""
        return Description.read(self.path / "config.json").model_dump(mode="json")

    def _steps(self) -> dict[str, Any]:
        path = self.path / "steps.json"
        return _read_json(path) if path.exists() else {}

    def _description(self) -> Description:
        return Description(
            settings=self.config,
            source=self.source,
            text_vectors=self.text_vectors,
            versions={
                "python": platform.python_version(),
                "lsvcr": __version__,
                **{name: _version(name) for name in LIBRARIES},
            },
            git_revision=_git_revision(),
        )


def _refuse_differences(found: RunFolder, config: RunConfig, source: Source) -> None:
    """Refuse to go on with a run under other settings, or on other data."""
    before, now = found.config.model_dump(mode="json"), config.model_dump(mode="json")
    differences = [
        f"{section}.{key} is {before[section][key]!r} there, {now[section][key]!r} was asked for"
        for section in before
        for key in before[section]
        if before[section][key] != now[section][key]
    ]
    if found.source.fingerprint != source.fingerprint:
        differences.append(f"the data of {source.folder} is other than {found.source.folder} was")
    if differences:
        raise DataError(
            f"{found.path} holds another run: {'; '.join(differences)}. "
            f"Choose another --out, or delete {found.path}"
        )


def _fingerprint(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(library: str) -> str | None:
    """None where it is imported without being installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of this code, marked if changed since; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a JSON object")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(beside, path)
