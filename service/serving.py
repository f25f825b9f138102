"""The processes of one service: store, engine, and front-ends that answer over HTTP."""

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from lsvcr.errors import LsvcrError
from service.app import create_app
from service.dealt_connections import LOOP, Channel, Dealer
from service.embedded_store import lasting_store
from service.engine.cuda_encoder import has_cuda
from service.engine_process import EngineProcess
from service.load_shedding import SheddingProtocol
from service.log_output import configure_logging
from service.lone_sockets import bind_several
from service.metrics import SHARED_FOLDER, keep_process_id
from service.settings import EMBEDDED, LOOPBACK, Settings, SettingsError, read_settings
from service.short_turns import take_short_turns

logger = structlog.get_logger(__name__)

_OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""Answers of one batch are some thousand objects, and none of them is in a cycle: with Python's 700
a tenth of a worker's time went into looking for some."""


def serve(arguments: Sequence[str]) -> int:
    """Serve until told to stop; returns the exit status, 2 where the settings are at fault."""
    try:
        settings = read_settings(arguments)
        configure_logging(settings.log_level)
        _warn_without_keys(settings)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the store outlives us
        with _one_store_for_all(settings) as stored, _engines_for_all(stored) as shared:
            return _serve(shared)
    except KeyboardInterrupt:  # how both signals arrive here, after the last answer
        return 0
    except LsvcrError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def worker_app() -> FastAPI:
    """Build the application in a worker process, from the settings its parent passed on."""
    settings = read_settings([])
    configure_logging(settings.log_level)
    keep_process_id()
    _end_with_parent()
    return _app_that_answers_soon(settings)


def _end_with_parent() -> None:
    """End when the process that started this one has, however it did: nobody else would end us."""

    def follow(parent: BaseProcess) -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=follow, args=[parent], name="parent-watch", daemon=True).start()


def _app_that_answers_soon(settings: Settings) -> FastAPI:
    """Modules and routes live as long as the process: to look at them takes 60 ms, for nothing."""
    take_short_turns()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    app = create_app(settings)
    gc.collect()
    gc.freeze()
    return app


def _serve(settings: Settings) -> int:
    options: dict[str, Any] = {
        "host": settings.listen_host,
        "port": settings.port,
        "http": SheddingProtocol,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "ws": "none",
        "proxy_headers": False,  # nothing here depends on who asks from where
        "timeout_graceful_shutdown": 10,
        **_tls_options(settings),
    }
    with contextlib.ExitStack() as stack:
        sockets = None
        if settings.admin_port is not None:
            sockets = [stack.enter_context(one) for one in _listen_on_both(settings, options)]
            settings = settings.model_copy(update={"admin_port": sockets[1].getsockname()[1]})
        if settings.workers == 1:
            return _serve_alone(settings, options, sockets)
        shared = stack.enter_context(tempfile.TemporaryDirectory(prefix="lsvcr-metrics-"))
        os.environ.update(settings.to_environment() | {SHARED_FOLDER: shared})
        options |= {"factory": True, "workers": settings.workers, "loop": LOOP}
        config = uvicorn.Config("service.serving:worker_app", **options)
        bound = sockets or [stack.enter_context(_bind(config))]
        dealer = Path(shared, "connections.sock")
        stack.enter_context(Dealer.running(bound, dealer))
        Multiprocess(config, sockets=[stack.enter_context(Channel(str(dealer)))]).run()
    return 0


def _serve_alone(
    settings: Settings, options: dict[str, Any], sockets: list[socket.socket] | None
) -> int:
    """Answer in this process."""
    addresses = [one.getsockname()[:2] for one in sockets or ()]
    with contextlib.ExitStack() as stack:
        try:
            several = [
                stack.enter_context(one)
                for address in addresses or [(settings.listen_host, settings.port)]
                for one in bind_several(*address)
            ]
        except OSError as error:
            raise _cannot_listen("", settings.listen_host, settings.port, error) from error
        config = uvicorn.Config(_app_that_answers_soon(settings), **options)
        server = uvicorn.Server(config) if sockets else _Server(config)  # those were announced
        server.run(several)
        return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Says that it listens, as with a socket of its own: whoever starts it may wait for that."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and self.started:
            self._log_started_message(sockets)


def _listen_on_both(settings: Settings, options: dict[str, Any]) -> list[socket.socket]:
    """Bind the public port and then that of the admins."""
    admin = {**options, "host": settings.admin_host, "port": settings.admin_port}
    public = uvicorn.Config(worker_app, **options)
    return [_bind(public), _bind(uvicorn.Config(worker_app, **admin), "admin-")]


def _bind(config: uvicorn.Config, flags: str = "") -> socket.socket:
    """As uvicorn does, which would end the process without a word of the address."""
    try:
        return config.bind_socket()
    except SystemExit as ended:
        raise _cannot_listen(flags, config.host, config.port, ended.__context__) from ended


def _cannot_listen(flags: str, host: str, port: int, error: BaseException | None) -> SettingsError:
    reason = error.strerror if isinstance(error, OSError) else error
    return SettingsError(f"--{flags}host {host} --{flags}port {port}: {reason}")


def _tls_options(settings: Settings) -> dict[str, Any]:
    """With a CA for clients, only those whose certificate it signed may connect.

    Raises:
        SettingsError: If a file can't be used: workers would end, and be started, again and again.
    """
    if settings.tls_certificate is None:
        return {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:
        files = f"--tls-certificate {settings.tls_certificate}, --tls-key {settings.tls_key}"
        raise SettingsError(f"{files}: {error.strerror or error}") from error
    options: dict[str, Any] = {
        "ssl_certfile": str(settings.tls_certificate),
        "ssl_keyfile": None if settings.tls_key is None else str(settings.tls_key),
    }
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except OSError as error:
            reason = error.strerror or error
            raise SettingsError(f"--tls-client-ca {settings.tls_client_ca}: {reason}") from error
        options["ssl_ca_certs"] = str(settings.tls_client_ca)
        options["ssl_cert_reqs"] = ssl.CERT_REQUIRED
    return options


@contextlib.contextmanager
def _one_store_for_all(settings: Settings) -> Iterator[Settings]:
    """Start the embedded store where it is wanted: its folder has one owner, so no worker does."""
    if settings.redis != EMBEDDED:
        yield settings
        return
    with lasting_store(settings.store_folder) as embedded:
        yield settings.model_copy(update={"redis": embedded.url})


@contextlib.contextmanager
def _engines_for_all(settings: Settings) -> Iterator[Settings]:
    """Start engine processes where they are wanted and none runs already."""
    if settings.engine_socket or not _wants_process(settings):
        yield settings
        return
    gpus: list[str | None] = [*settings.gpus.split(",")] if settings.gpus else [None]
    if settings.gpus and settings.device == "auto":  # a GPU that isn't there must not be a CPU
        settings = settings.model_copy(update={"device": "cuda"})
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(EngineProcess(settings, gpu)) for gpu in gpus]
        sockets = ",".join(str(process.socket) for process in processes)
        yield settings.model_copy(update={"engine_socket": sockets})


def _wants_process(settings: Settings) -> bool:
    """By itself only where workers would load a GPU several times: docs/decisions/0007."""
    if settings.gpus:
        if settings.engine == "inline":
            raise SettingsError("--gpus: wants engine processes, but --engine is inline")
        return True
    if settings.engine != "auto":
        return settings.engine == "process"
    return settings.workers > 1 and settings.device != "cpu" and has_cuda()


def _warn_without_keys(settings: Settings) -> None:
    if not any(settings.keys.values()):
        where = "this machine" if settings.listen_host == LOOPBACK else "anybody who reaches us"
        logger.warning("no API key is set", open_to=where, host=settings.listen_host)
