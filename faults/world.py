"""What every scenario begins with: a store behind a proxy, replicas, a registry, a load."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.envoy_balancer import envoy_before
from faults.load import USERS, Load, Record
from faults.replica import Replica
from faults.store_cluster import StoreCluster
from faults.store_server import StoreServer
from faults.tcp_proxy import TcpProxy
from lsvcr.registry import write_current
from service.popularity_counters import HOUR_S
from tests.tiny_bundle_builder import TINY_VERSIONS, write_tiny_bundle

BEFORE_S, AFTER_S = 4.0, 4.0


@dataclass
class World:
    """Running parts that a scenario may damage.

    Attributes:
        doors: Ports that callers ask, instead of those of the replicas; empty without a balancer.
        began_s, ended_s: `time.monotonic()` of the fault, set by `fault`.
        notes: What a scenario found besides.
    """

    folder: Path
    registry: Path
    any_store: StoreServer | StoreCluster
    proxy: TcpProxy
    replicas: list[Replica]
    doors: list[int] = field(default_factory=list)
    asks_per_s: float = 40.0
    events_per_s: float = 15.0
    users_stay_s: float = math.inf
    asks_at_once: int = 400
    began_s: float = 0.0
    ended_s: float = 0.0
    running: Load | None = None

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        self.failures: list[str] = []

    @property
    def store(self) -> StoreServer:
        """The store, where it is one server."""
        assert isinstance(self.any_store, StoreServer)
        return self.any_store

    @property
    def ports(self) -> list[int]:
        """Whom callers ask."""
        return self.doors or [replica.port for replica in self.replicas]

    def cluster(self) -> StoreCluster:
        """The store, where it is a cluster."""
        assert isinstance(self.any_store, StoreCluster)
        return self.any_store

    @contextlib.contextmanager
    def fault(self) -> Iterator[None]:
        """Mark when a fault begins and ends."""
        self.began_s = time.monotonic()
        yield
        self.ended_s = time.monotonic()

    def expect(self, is_true: bool, otherwise: str) -> None:
        """Note what did not hold."""
        if not is_true:
            self.failures.append(otherwise)

    def accepted(self) -> frozenset[str]:
        """Ids of the events that were accepted so far."""
        assert self.running is not None
        return frozenset(self.running.record.accepted.copy())

    @contextlib.contextmanager
    def one_more(
        self, *arguments: str, log: Path | None = None, within: tuple[str, ...] = ()
    ) -> Iterator[Replica]:
        """Let another replica take part; the running load asks it too."""
        replica = self.replica(*arguments, log=log, within=within)
        if self.running is not None:
            self.running.also_ask(replica.port)
        replica.start()
        time.sleep(1.0)
        try:
            yield replica
        finally:
            time.sleep(1.0)
            replica.stop()

    def replica(
        self, *arguments: str, log: Path | None = None, within: tuple[str, ...] = ()
    ) -> Replica:
        """A replica of this world, not started yet."""
        return Replica(
            self.registry,
            self._store_url(),
            log or self.folder / f"service-{len(self.replicas)}.log",
            arguments=("--refresh-s", "0.5", "--drain-s", "1", "--store-shards", "12", *arguments),
            within=within,
        )

    def _store_url(self) -> str:
        if isinstance(self.any_store, StoreCluster):
            return self.any_store.url
        return f"redis://127.0.0.1:{self.proxy.port}"

    @contextlib.contextmanager
    def load(self, tag: str) -> Iterator[Load]:
        """Ask before, during and after what the block does."""
        load = Load(
            self.ports,
            asks_per_s=self.asks_per_s,
            events_per_s=self.events_per_s,
            tag=tag,
            users_stay_s=self.users_stay_s,
            at_once=self.asks_at_once,
        )
        self.running = load
        load.start()
        try:
            time.sleep(BEFORE_S)
            yield load
            time.sleep(AFTER_S)
        finally:
            self.running = None
            load.stop()


@contextlib.contextmanager
def running_world(
    folder: Path, *, replicas: int = 2, clustered: bool = False, balanced: bool = False
) -> Iterator[World]:
    """Start everything, and end it all the same.

    Args:
        folder: For all files.
        replicas: Of the service.
        clustered: Whether the store is a cluster, without a proxy, or one server behind one.
        balanced: Whether callers ask a balancer, which asks the replicas.
    """
    registry = folder / "registry"
    for seed, version in enumerate(TINY_VERSIONS):
        write_tiny_bundle(registry / version, version=version, seed=seed)
    write_current(registry, TINY_VERSIONS[0])
    store = (
        StoreCluster(folder / "store", replicas=1) if clustered else StoreServer(folder / "store")
    )
    store.start()
    port = store.servers[0].port if isinstance(store, StoreCluster) else store.port
    with TcpProxy(port) as proxy:
        world = World(folder, registry, store, proxy, [])
        try:
            for _ in range(replicas):
                world.replicas.append(world.replica())
                world.replicas[-1].start()
            _give_histories(world.replicas[0])
            with contextlib.ExitStack() as stack:
                if balanced:
                    world.doors = [stack.enter_context(envoy_before(world.ports, folder))]
                yield world
        finally:
            for replica in world.replicas:
                replica.stop()
            store.stop()


def _give_histories(replica: Replica) -> None:
    """Let every user have watched something: who hasn't gets popular videos, whatever happens.

    An hour ago, so that there are counts of what is popular, as there always are but at first.
    """
    timestamp_ms = int((time.time() - HOUR_S) * 1000)
    events = [
        {
            "event_id": f"before-{user}",
            "user_id": f"user-{user}-0",
            "type": "video_watch",
            "video_id": f"v{user % 50 + 1}",
            "timestamp": timestamp_ms,
        }
        for user in range(USERS)
    ]
    status, answer = replica.call("POST", "/events", {"events": events})
    if status != 200 or answer["accepted"] != USERS:
        raise RuntimeError(f"the first events are not accepted: {status} {answer}")


def events_found(world: World, record: Record) -> int:
    """How many of the accepted events the log holds."""
    return len(record.accepted & world.any_store.logged_event_ids())
