"""A real Valkey cluster on this machine: masters with or without a replica each."""

import json
import time
from pathlib import Path

from redis import Redis, RedisCluster

from faults.store_server import StoreServer

SLOTS = 16_384
START_S = 30
NODE_TIMEOUT_MS = 1000


class StoreCluster:
    """Started by `start`, ended by `stop`.

    Args:
        folder: Keeps the files of all servers.
        masters: How many share the slots.
        replicas: How many each master has.
    """

    def __init__(self, folder: Path, *, masters: int = 3, replicas: int = 0) -> None:
        count = masters * (1 + replicas)
        self.servers = [StoreServer(folder / f"node-{number}") for number in range(count)]
        self._masters = masters

    @property
    def url(self) -> str:
        """For the service."""
        return f"redis+cluster://127.0.0.1:{self.servers[0].port}"

    def start(self) -> None:
        """Start all servers, give them slots and masters, and wait until they agree."""
        for server in self.servers:
            server.start(*self.options(server))
        bounds = [SLOTS * number // self._masters for number in range(self._masters + 1)]
        for number, server in enumerate(self.servers[: self._masters]):
            with server.client() as redis:
                last = bounds[number + 1] - 1
                redis.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], last)
                redis.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        with self.servers[0].client() as redis:
            for server in self.servers[1:]:
                redis.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, server.bus_port)
        self._await(lambda redis: self._knows_all(redis))
        for number, server in enumerate(self.servers[self._masters :]):
            with self.servers[number % self._masters].client() as master:
                identifier = master.execute_command("CLUSTER", "MYID").decode()
            with server.client() as redis:
                redis.execute_command("CLUSTER", "REPLICATE", identifier)
        self._await(lambda redis: redis.cluster("INFO")["cluster_state"] == "ok")
        for server in self.servers[self._masters :]:
            self._await_link(server)

    def options(self, server: StoreServer) -> tuple[str, ...]:
        """What a server of the cluster is started with."""
        return (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--cluster-port", str(server.bus_port), "--repl-diskless-sync-delay", "0"),
        )

    def stop(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.stop()

    def logged_event_ids(self) -> set[str]:
        """All event ids in the log."""
        with RedisCluster(host="127.0.0.1", port=self._living().port) as redis:
            return {
                json.loads(fields[b"event"])["event_id"]
                for key in redis.scan_iter("lsvcr:events:*", count=1000)
                for _, fields in redis.xrange(key)
            }

    def _living(self) -> StoreServer:
        for server in self.servers:
            if server.is_running:
                return server
        raise RuntimeError("no server of the cluster runs")

    def _knows_all(self, redis: "Redis") -> bool:
        nodes = redis.cluster("NODES").values()
        met = [node for node in nodes if "handshake" not in node["flags"]]
        return len(met) == len(self.servers)

    def _await(self, is_done) -> None:  # type: ignore[no-untyped-def]
        until_s = time.monotonic() + START_S
        for server in self.servers:
            with server.client() as redis:
                while not is_done(redis):
                    if time.monotonic() > until_s:
                        raise RuntimeError("the cluster doesn't come together")
                    time.sleep(0.05)

    def _await_link(self, server: StoreServer) -> None:
        until_s = time.monotonic() + START_S
        with server.client() as redis:
            while redis.info("replication").get("master_link_status") != "up":
                if time.monotonic() > until_s:
                    raise RuntimeError("a replica doesn't follow its master")
                time.sleep(0.05)
