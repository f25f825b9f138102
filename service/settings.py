"""Everything an operator may change. Read once, when the service starts."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from lsvcr.bundle import VERSION_PATTERN
from lsvcr.errors import LsvcrError

PREFIX = "LSVCR_"
LOOPBACK = "127.0.0.1"
EMBEDDED = "embedded"


class SettingsError(LsvcrError):
    """A setting is unknown or contradicts another."""


class Settings(BaseSettings):
    """Each setting is an environment variable `LSVCR_NAME` or a flag `--name`; the flag wins.

    With `--check` the service doesn't start: it prints what is installed and what is missing.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # a key must not show up in a log
    )

    registry: Path = Field(description="Folder of bundles, as `python -m export` fills it.")
    model_version: str | None = Field(
        default=None,
        pattern=VERSION_PATTERN,
        description="Serve this version, whatever is current: for a deployment per version.",
    )
    redis: str = Field(
        default=EMBEDDED,
        repr=False,  # it may hold a password
        description="URL of Redis or Valkey (redis://, rediss://, unix://, or of a cluster: "
        "redis+cluster://, rediss+cluster://), or `embedded`.",
    )
    redis_user: str | None = Field(default=None, description="ACL user of the store.")
    redis_password_file: Path | None = Field(
        default=None, description="File with the store's password, instead of one in the URL."
    )
    store_folder: Path = Field(
        default=Path("lsvcr-store"), description="Where the embedded store keeps its files."
    )
    host: str | None = Field(
        default=None,
        description="Address to listen on. Default: 0.0.0.0 with keys, 127.0.0.1 without.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port for what needs an admin's key, which the other one then doesn't know.",
    )
    admin_host: str = Field(default=LOOPBACK, description="Address of that port.")
    workers: int = Field(default=1, ge=1, description="Processes that answer requests.")
    engine: Literal["auto", "inline", "process"] = Field(
        default="auto",
        description="Where the model computes: in each worker, or in one process for all of them. "
        "`auto` takes a process where several workers share a GPU.",
    )
    engine_socket: str = Field(
        default="",
        description="Unix sockets of engine processes that run already, comma-separated.",
    )
    gpus: str = Field(
        default="",
        pattern=r"^(\d+(,\d+)*)?$",
        description="GPUs by number, as `0,1`: an engine process on each, for all workers.",
    )
    engine_hung_s: float = Field(
        default=10,
        gt=0,
        description="An engine process without a sign of life for so long is replaced.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where the model runs; with `cuda`, not ready without a GPU."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug` logs every request."
    )

    admin_keys: str = Field(
        default="", repr=False, description="Comma-separated API keys that may do everything."
    )
    recommend_keys: str = Field(
        default="", repr=False, description="Comma-separated API keys that may ask."
    )
    ingest_keys: str = Field(
        default="", repr=False, description="Comma-separated API keys that may send events."
    )
    admin_keys_file: Path | None = Field(
        default=None, description="File with more admin keys, one a line."
    )
    recommend_keys_file: Path | None = Field(
        default=None, description="File with more recommend keys, one a line."
    )
    ingest_keys_file: Path | None = Field(
        default=None, description="File with more ingest keys, one a line."
    )

    keys_refresh_s: float = Field(
        default=2, gt=0, description="How often the files of keys are read again, in seconds."
    )
    key_rate_per_s: float = Field(
        default=0, ge=0, description="Requests a second of one key over all processes; 0: any."
    )
    key_burst: int = Field(
        default=100, ge=1, description="Requests that a key may save up for a burst."
    )
    tls_certificate: Path | None = Field(
        default=None, description="Certificate chain (PEM): listen by TLS only."
    )
    tls_key: Path | None = Field(default=None, description="Private key of the certificate (PEM).")
    tls_client_ca: Path | None = Field(
        default=None, description="CA (PEM) that must have signed a client's certificate: mTLS."
    )
    drain_s: float = Field(
        default=0,
        ge=0,
        le=60,
        description="On SIGTERM, not ready but answering for so many seconds: for a balancer.",
    )

    otlp_endpoint: str | None = Field(
        default=None,
        description="URL of an OpenTelemetry collector (OTLP over HTTP) that gets traces.",
    )

    deadline_ms: int = Field(
        default=1000, ge=1, description="Most a request may take; X-Deadline-Ms may shorten it."
    )
    max_under_way: int = Field(
        default=1024, ge=1, description="Requests at once in one process; above it we answer 503."
    )
    max_queue: int = Field(
        default=512, ge=1, description="Requests waiting for the model; above it we answer 503."
    )
    max_batch: int = Field(default=16, ge=1, description="Requests computed together, at most.")
    refresh_s: float = Field(
        default=30, gt=0, description="How often the registry is looked at, in seconds."
    )
    popularity_refresh_s: float = Field(
        default=20, gt=0, description="How often new counts of watched videos are read, in seconds."
    )

    experiments_refresh_s: float = Field(
        default=0.2, gt=0, le=10, description="How often changed experiments are looked for."
    )
    trust_arm_header: bool = Field(
        default=False, description="Let X-Arm force an arm without an admin key: for a gateway."
    )

    store_timeout_ms: int = Field(
        default=100, ge=1, description="Most a failing store may cost a recommendation."
    )
    store_write_timeout_ms: int = Field(
        default=500, ge=1, description="Most that writing one batch of events may take."
    )
    history_max_events: int = Field(
        default=200, ge=1, le=10_000, description="Events kept per user and side, the newest."
    )
    history_days: int = Field(
        default=180,
        ge=1,
        description="Histories expire this long after the user's last event, or a 64th sooner.",
    )
    store_shards: int = Field(
        default=4,
        ge=1,
        le=1024,
        description="Streams of the log, and parts that a cluster can spread; fixed once used.",
    )
    event_log_max_entries: int = Field(
        default=1_000_000, ge=1, description="Events kept in the log, the newest."
    )

    report_folder: Path | None = Field(
        default=None,
        description="Where reports keep what they exported. Default: forgotten when we stop.",
    )
    exposure_log_max_entries: int = Field(
        default=200_000, ge=1, description="Answers kept in the log of exposures, the newest."
    )

    max_body_bytes: int = Field(default=1_048_576, ge=1, description="Largest request body.")
    max_k: int = Field(default=500, ge=1, description="Most items one request may ask for.")
    max_batch_requests: int = Field(default=256, ge=1, description="Requests in one batch.")
    max_events: int = Field(default=1000, ge=1, description="Events in one call.")
    max_inline_events: int = Field(
        default=1000, ge=1, description="Events a side of a history inside a request."
    )
    max_excluded: int = Field(default=2000, ge=1, description="Ids excluded by one request.")
    max_candidates: int = Field(default=5000, ge=1, description="Candidate comments, likewise.")

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """All keys by role, those of the files included.

        Raises:
            SettingsError: If a file can't be read, or a key can't stand in a header.
        """
        keys = {
            "admin": _split(self.admin_keys) + _read_keys(self.admin_keys_file),
            "recommend": _split(self.recommend_keys) + _read_keys(self.recommend_keys_file),
            "ingest": _split(self.ingest_keys) + _read_keys(self.ingest_keys_file),
        }
        for role, role_keys in keys.items():
            if not all(key.isascii() and key.isprintable() and " " not in key for key in role_keys):
                raise SettingsError(f"a key for {role} has a character that a header can't carry")
        return keys

    @property
    def engine_sockets(self) -> list[Path]:
        """Where engine processes listen that run already."""
        return [Path(path) for path in _split(self.engine_socket)]

    @property
    def store_url(self) -> str:
        """Where the store is, with user and password where they are given apart from it.

        Raises:
            SettingsError: If the password's file can't be read.
        """
        if self.redis_password_file is None:
            return self.redis
        password = _read_file(self.redis_password_file).strip()
        scheme, _, rest = self.redis.partition("://")
        user = quote(self.redis_user or "", safe="")
        return f"{scheme}://{user}:{quote(password, safe='')}@{rest.rpartition('@')[2]}"

    @property
    def listen_host(self) -> str:
        """Where to listen when nobody said: only with keys beyond this machine."""
        return self.host or ("0.0.0.0" if any(self.keys.values()) else LOOPBACK)

    def to_environment(self) -> dict[str, str]:
        """The variables from which another process reads the same settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items()}


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read the environment and the command line, which wins.

    Raises:
        SettingsError: If a value is wrong, or the environment has an `LSVCR_` variable that is no
            setting: a misspelt name must not be ignored in silence.
        SystemExit: After `--help`, or an unknown flag.
    """
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    names = sorted(name for name in os.environ if name.upper().startswith(PREFIX))
    if unknown := [name for name in names if name.upper() not in known]:
        raise SettingsError(f"unknown setting {', '.join(unknown)}; --help lists all")
    try:
        return Settings(
            _cli_parse_args=list(arguments),
            _cli_kebab_case=True,
            _cli_hide_none_type=True,
            _cli_prog_name="python -m service",
        )
    except ValidationError as error:
        wrong = (f"{_flag(problem['loc'])}: {problem['msg']}" for problem in error.errors())
        raise SettingsError("; ".join(wrong)) from error


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line, for shell completion."""
    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        Settings, cli_kebab_case=True, cli_hide_none_type=True
    )
    parser: argparse.ArgumentParser = source.root_parser
    parser.prog = "lsvcr-service"
    return parser


def is_named(name: str, arguments: Sequence[str]) -> bool:
    """Whether somebody chose a setting, by flag or environment."""
    flag = _flag((name,))
    by_flag = any(one == flag or one.startswith(f"{flag}=") for one in arguments)
    return by_flag or bool(os.environ.get(f"{PREFIX}{name.upper()}"))


def _flag(location: tuple[int | str, ...]) -> str:
    return "--" + str(location[0]).replace("_", "-") if location else "settings"


def _split(text: str) -> tuple[str, ...]:
    return tuple(
        key for part in text.splitlines() for key in map(str.strip, part.split(",")) if key
    )


def _read_keys(path: Path | None) -> tuple[str, ...]:
    return () if path is None else _split(_read_file(path))


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
