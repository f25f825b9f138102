"""Envoy before some replicas, with the configuration as shipped but for addresses."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.service_process import free_port, running_server

CONFIGURATION = Path("docker/gateway/envoy-replicas.yaml")
LISTENER = "address: 0.0.0.0, port_value: 8080"
ENDPOINT = "- endpoint: { address: { socket_address: { address: service, port_value: 8000 } } }"


@contextlib.contextmanager
def envoy_before(ports: Sequence[int], folder: Path) -> Iterator[int]:
    """Yields the port of a balancer before others, whose servers may end and begin again."""
    port = free_port()
    endpoints = [
        ENDPOINT.replace("service, port_value: 8000", f"127.0.0.1, port_value: {one}")
        for one in ports
    ]
    text = CONFIGURATION.read_text()
    indent = text.split(ENDPOINT)[0].rsplit("\n", 1)[1]
    text = text.replace(ENDPOINT, f"\n{indent}".join(endpoints))
    text = text.replace(LISTENER, f"address: 127.0.0.1, port_value: {port}")
    (folder / "envoy.yaml").write_text(text)
    envoy = Path(sys.executable).with_name("envoy")
    command = [str(envoy), "--config-path", str(folder / "envoy.yaml"), "--disable-hot-restart"]
    with running_server([*command, "--concurrency", "1", "--log-level", "error"], port):
        yield port
