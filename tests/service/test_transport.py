"""TLS, client certificates, a store behind TLS and a password; and that no secret is told."""

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from experiment_apps import wait_until
from live_service import running_service
from redis import Redis
from tls_proxy import tls_in_front_of

from service.embedded_store import EmbeddedStore

ADMIN_KEY, OTHER_KEY, PASSWORD = "adm-s3cr3t-9f2", "rec-s3cr3t-41b", "store-s3cr3t-77c"


@dataclass(frozen=True)
class Certificates:
    """A CA, and what it signed for a server and a client."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)


@dataclass(frozen=True)
class Service:
    port: int
    log: Path

    def ask(
        self, context: ssl.SSLContext, method: str, path: str, body: Any = None, key: str = ""
    ) -> tuple[int, str]:
        connection = http.client.HTTPSConnection(
            "localhost", self.port, context=context, timeout=20
        )
        try:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            return response.status, f"{response.headers}{response.read().decode()}"
        finally:
            connection.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "server.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    (folder / "client.ext").write_text("extendedKeyUsage=clientAuth\n")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", *signed),
            *("-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )
    return Certificates(folder)


@pytest.fixture(scope="module")
def locked_store(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[int]:
    """A store behind TLS that lets one user in, by password, and only to our keys."""
    with EmbeddedStore(tmp_path_factory.mktemp("locked")) as embedded:
        path = unquote(embedded.url.removeprefix("unix://"))
        with Redis.from_url(embedded.url) as redis:
            redis.acl_setuser(
                "lsvcr",
                enabled=True,
                passwords=[f"+{PASSWORD}"],
                keys=["lsvcr:*"],
                categories=["+@all", "-@dangerous", "-@admin"],
            )
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(
                certificates.path("server.pem"), certificates.path("server.key")
            )
            with tls_in_front_of(path, context) as port:
                redis.acl_setuser("default", enabled=True, commands=["-@all", "+acl"])
                yield port
                redis.acl_setuser("default", enabled=True, commands=["+@all"])


@pytest.fixture(scope="module", params=["1", "2"])
def service(
    request: pytest.FixtureRequest,
    tiny_master: Path,
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Certificates,
    locked_store: int,
) -> Iterator[Service]:
    """A service that listens by mTLS, on a store by TLS, with every secret in a file.

    With one worker or two: each listens for connections in its own way.
    """
    folder = tmp_path_factory.mktemp("service")
    (folder / "password").write_text(PASSWORD)
    (folder / "admin-keys").write_text(ADMIN_KEY)
    (folder / "recommend-keys").write_text(OTHER_KEY)
    ca = quote(certificates.path("ca.pem"), safe="")
    with running_service(
        tiny_master,
        folder,
        *("--redis", f"rediss://localhost:{locked_store}/0?ssl_ca_certs={ca}"),
        *("--redis-user", "lsvcr", "--redis-password-file", str(folder / "password")),
        *("--admin-keys-file", str(folder / "admin-keys")),
        *("--recommend-keys-file", str(folder / "recommend-keys")),
        *("--tls-certificate", certificates.path("server.pem")),
        *("--tls-key", certificates.path("server.key")),
        *("--tls-client-ca", certificates.path("ca.pem")),
        *("--host", "127.0.0.1", "--log-level", "debug", "--store-timeout-ms", "5000"),
        *("--workers", request.param),
    ) as url:
        assert url.startswith("https://")
        port = int(url.rsplit(":", 1)[1])
        wait_until(lambda: listens(port), "a worker that listens")
        yield Service(port, folder / "log")


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def known(certificates: Certificates) -> ssl.SSLContext:
    """A client with a certificate of the CA."""
    context = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    context.load_cert_chain(certificates.path("client.pem"), certificates.path("client.key"))
    return context


EVENT = {"user_id": "u", "type": "video_watch", "video_id": "v3", "timestamp": 1}


def test_clients_are_known_by_their_certificate(
    service: Service, certificates: Certificates, known: ssl.SSLContext
) -> None:
    assert service.ask(known, "GET", "/health/ready")[0] == 200
    stranger = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        service.ask(stranger, "GET", "/health/ready")


def test_histories_go_through_tls_to_a_store_with_a_user_of_its_own(
    service: Service, known: ssl.SSLContext
) -> None:
    events = [{**EVENT, "event_id": f"e{service.port}"}]  # the store is the same for all services
    status, answer = service.ask(known, "POST", "/events", {"events": events}, ADMIN_KEY)
    assert (status, '"accepted":1' in answer) == (200, True), answer
    status, answer = service.ask(known, "POST", "/recommend/videos", {"user_id": "u"}, OTHER_KEY)
    assert (status, '"degraded":[]' in answer) == (200, True), answer


def test_no_secret_is_told_anywhere(service: Service, known: ssl.SSLContext) -> None:
    asked = [
        ("GET", "/metrics", None, ""),
        ("GET", "/health/ready", None, ""),
        ("GET", "/openapi.json", None, ""),
        ("GET", "/docs", None, ""),
        ("GET", "/admin/models", None, ADMIN_KEY),
        ("GET", "/admin/models", None, OTHER_KEY),
        ("GET", "/admin/models", None, f"{ADMIN_KEY}x"),
        ("POST", "/recommend/videos", {"user_id": 7}, OTHER_KEY),
        ("POST", "/admin/models/none/activate", None, ADMIN_KEY),
        ("GET", "/users/u/export", None, ADMIN_KEY),
    ]
    answers = [service.ask(known, *one)[1] for one in asked]
    told = "\n".join([*answers, service.log.read_text(), " ".join(_command_line(service))])
    for secret in (ADMIN_KEY, OTHER_KEY, PASSWORD, "BEGIN PRIVATE"):
        assert secret not in told
    assert "/recommend/videos" in service.log.read_text()  # requests are logged at all


def test_pages_of_other_origins_may_not_ask(service: Service, known: ssl.SSLContext) -> None:
    for method in ("OPTIONS", "POST"):
        _, answer = service.ask(known, method, "/recommend/videos", {"user_id": "u"}, OTHER_KEY)
        assert "access-control" not in answer.lower()


def test_every_log_line_is_one_json_object_whatever_is_sent(
    service: Service, known: ssl.SSLContext
) -> None:
    """Identifiers, paths and headers that try to forge a line of their own."""
    forged = 'x"}\n{"event": "forged", "level": "critical"'
    service.ask(known, "POST", "/recommend/videos", {"user_id": forged}, OTHER_KEY)
    service.ask(known, "GET", f"/videos/{quote(forged, safe='')}/similar", None, OTHER_KEY)
    service.ask(known, "POST", f"/admin/models/{quote(forged, safe='')}/activate", key=ADMIN_KEY)
    lines = service.log.read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert not any(json.loads(line)["event"] == "forged" for line in lines)


RAW = [
    b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\n\tb\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\nSet-Cookie: b\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x00b\r\n\r\n",
    b"POST /recommend/videos HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    b"Content-Length: 6\r\n\r\nabcdef",
    b"POST /recommend/videos HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin/models HTTP/1.1\r\n\r\n",
    b"POST /recommend/videos HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    b"\x16\x03\x01 no HTTP at all\r\n\r\n",
]


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_no_header_is_smuggled_in(service: Service, known: ssl.SSLContext, raw: bytes) -> None:
    with (
        socket.create_connection(("localhost", service.port), timeout=20) as plain,
        known.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        answer = b""
        with contextlib.suppress(OSError):
            connection.sendall(raw)
            connection.settimeout(1.0)
            while chunk := connection.recv(65_536):
                answer += chunk
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"set-cookie" not in head and b" 500 " not in head
    assert answer.count(b"HTTP/1.1 ") <= 1
    if b" 400 " in head:
        assert b"content-type: application/problem+json" in head and b"x-request-id: " in head
    assert service.ask(known, "GET", "/health/live")[0] == 200


def _command_line(service: Service) -> list[str]:
    """Flags of all services that run: what any user of the machine can read."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return [line for line in lines.splitlines() if "-m service" in line]
