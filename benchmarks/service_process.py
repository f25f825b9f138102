"""The service as its operator runs it, filled with invented users; and what it is compared with."""

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.invented_users import invent_events, invent_full_events
from lsvcr.bundle import load_bundle
from lsvcr_client import Client, Retries
from lsvcr_client.requests import Event, SendEvents

_PORTS = range(20_000, 32_768)
"""Below those of outgoing connections, by default, on Linux as elsewhere."""
USERS = 2_000
START_S = 180
PEERS = ("plain", "litserve", "bentoml")
UVICORN = ("uvicorn", "--no-access-log", "--log-level", "warning")


class Cores:
    """This process's cores, of which the service may have some for itself.

    Attributes:
        service: Those of whatever is started within `for_service`.
        load: All others, the load generators'; the same where all are shared.

    Args:
        service_cores: How many; 0 shares all.
    """

    def __init__(self, service_cores: int) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.service = cores[:service_cores] if service_cores else cores
        self.load = cores[service_cores:]
        if not self.load:
            raise SystemExit(f"--service-cores {service_cores}: there are {len(cores)} in all")

    @contextlib.contextmanager
    def for_service(self) -> Iterator[None]:
        """Start processes on the service's cores; afterwards they start on the load's."""
        os.sched_setaffinity(0, self.service)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.load)


def add_cores_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--service-cores` for `Cores`."""
    parser.add_argument(
        "--service-cores",
        type=int,
        default=0,
        help="of the service and its store; generators have the others; 0 shares all of them",
    )


@contextlib.contextmanager
def running_service(
    registry: Path, store: Path, *, workers: int, arguments: Sequence[str] = ()
) -> Iterator[int]:
    """`python -m service` with an embedded store; yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "service", "--registry", str(registry)]
    command += ["--store-folder", str(store), "--port", str(port), "--workers", str(workers)]
    with running_server([*command, "--log-level", "warning", *arguments], port):
        yield port


@contextlib.contextmanager
def running_app(name: str, *, workers: int) -> Iterator[int]:
    """`baselines/NAME_app.py`, which needs no model; yields its port."""
    port = free_port()
    command = [sys.executable, "-m", *UVICORN, f"benchmarks.baselines.{name}_app:app"]
    with running_server([*command, "--port", str(port), "--workers", str(workers)], port):
        yield port


@contextlib.contextmanager
def running_peer(
    name: str, environment: Mapping[str, str], *, workers: int, python: Path
) -> Iterator[int]:
    """The same model behind another server, as `baselines/NAME_app.py` has it; yields its port.

    Args:
        name: One of `PEERS`.
        environment: What `baselines/plain_model.py` reads.
        python: Of an environment with `baselines/requirements-peers.txt`.
    """
    port = free_port()
    command = {
        "plain": [*UVICORN, "benchmarks.baselines.plain_app:app"],
        "litserve": ["benchmarks.baselines.litserve_app"],
        "bentoml": ["bentoml", "serve", "benchmarks.baselines.bentoml_app:Recommender", "-q"],
    }[name]
    command = [str(python), "-m", *command, "--port", str(port)]
    ready = "/health/ready"
    if name == "bentoml":
        command += ["--host", "127.0.0.1"]
        ready = "/readyz"
    elif name == "litserve":  # each has a process for HTTP beside it
        command += ["--workers", str(max(1, workers // 2))]
    else:
        command += ["--workers", str(workers)]
    with tempfile.TemporaryDirectory() as home:
        bentoml = {"WORKERS": str(workers), "BENTOML_HOME": home}
        bentoml |= {"BENTOML_DO_NOT_TRACK": "true"}  # it would report its use
        with running_server(command, port, {**environment, **bentoml}, ready):
            yield port


@contextlib.contextmanager
def halted(ports: Iterable[int]) -> Iterator[None]:
    """Stop servers while others are measured: some poll their queues when nobody asks."""
    processes = [process for port in ports for process in _family_of(port)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def fill_store(port: int, registry: Path, *, full: bool = False) -> None:
    """Send every invented user's events, in batches, as a client would.

    Args:
        full: Everybody has more events than the encoder reads; else as many as real users.
    """
    current = json.loads((registry / "current.json").read_text())["version"]
    catalogue = load_bundle(registry / current, verify_checksums=False).catalogue
    events = (invent_full_events if full else invent_events)(catalogue, USERS)
    lines: list[dict[str, Any]] = []
    for user, video, time_ms in zip(
        events.video_user_N, events.video_N, events.video_time_N, strict=True
    ):
        item = {"type": "video_watch", "video_id": catalogue.video_id[int(video)]}
        lines.append({**item, "user_id": f"user-{user}", "timestamp": int(time_ms)})
    for user, comment, time_ms in zip(
        events.comment_user_M, events.comment_M, events.comment_time_M, strict=True
    ):
        item = {"type": "comment_like", "comment_id": catalogue.comment_id[int(comment)]}
        lines.append({**item, "user_id": f"user-{user}", "timestamp": int(time_ms)})
    sent = [Event(**line, event_id=f"event-{number}") for number, line in enumerate(lines)]
    # A busy machine may refuse some for a while, and to send them again is safe.
    patient = Retries(attempts=20)
    with Client(f"http://127.0.0.1:{port}", timeout_ms=60_000, retries=patient) as client:
        for start in range(0, len(sent), 500):
            client.send(SendEvents(sent[start : start + 500]))


def ask(port: int, method: str, path: str, body: Any = None) -> Any:
    """One request and its JSON, if it answers any; raises RuntimeError where it fails."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status not in (200, 204):
        raise RuntimeError(f"{path} answered {answer.status}: {content!r}")
    return json.loads(content or b"null")


def memory_of(port: int) -> dict[str, int]:
    """Bytes of all processes of the service that listens on a port.

    Shared pages count once each (PSS), as several processes map the same files.
    """
    total = {"pss_bytes": 0, "anonymous_bytes": 0}
    for process in _family_of(port):
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
        total["pss_bytes"] += int(fields["Pss"].split()[0]) * 1024
        total["anonymous_bytes"] += int(fields["Pss_Anon"].split()[0]) * 1024
    return total


def cpu_s_of(port: int) -> float:
    """Seconds of processor time of the server on a port so far, without its embedded store."""
    ticks = 0
    for process in _family_of(port):
        name, fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)
        if "valkey" not in name:
            ticks += sum(map(int, fields.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _family_of(port: int) -> list[int]:
    """The process that was started with a port, and all below it."""
    parents = {}
    family = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            parents[int(folder.name)] = int(stat[1])
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"--out" not in command and str(port).encode() in command:  # no load generator
                family.append(int(folder.name))
    for process in family:
        family += [child for child, parent in parents.items() if parent == process]
    return list(dict.fromkeys(family))


def free_port() -> int:
    """A port that nobody listens on now, and that the system gives to no outgoing connection.

    Of those which it chooses itself one may be some client's before a server has it.
    """
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):  # whatever seeds others use
        with socket.socket() as listening, contextlib.suppress(OSError):
            listening.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


@contextlib.contextmanager
def running_server(
    command: Sequence[str],
    port: int,
    environment: Mapping[str, str] | None = None,
    ready: str = "/health/ready",
) -> Iterator[None]:
    """A server that answers on a port, once `/health/ready` there says 200."""
    one_thread = {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env={**os.environ, **one_thread, **(environment or {})})
    try:
        _wait_until_ready(port, process, ready)
        yield
    finally:
        family = _family_of(port)
        process.terminate()
        process.wait(timeout=30)
        for left in family:  # LitServe ends without its workers
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], path: str) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"nothing answers on port {port}")
