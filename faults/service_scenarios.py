"""What can happen to the service's own processes."""

import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.replica import Replica
from faults.world import World
from tests.tiny_bundle_builder import TINY_VERSIONS

HOLD_S = 4.0
STOP_S = 12.0


def replica_killed(world: World) -> None:
    """`kill -9` of one of two replicas; the other one answers until it is back."""
    victim = world.replicas[0]
    with world.fault():
        victim.kill()
        time.sleep(HOLD_S)
        victim.start()


def replica_stopped(world: World) -> None:
    """SIGTERM under load: what it has begun it answers, and nobody gets an error."""
    victim = world.replicas[0]
    with world.fault():
        took_s = victim.stop()
        time.sleep(1.0)
        victim.start()
    world.notes.append(f"stopped in {took_s:.1f} s")
    world.expect(took_s < STOP_S, f"stopping took {took_s:.1f} s")


def rolling_restart(world: World) -> None:
    """Each replica in turn is stopped and started, as for a new release."""
    restart_in_turn(world)


def restart_in_turn(world: World, *, pause_s: float = 0.0) -> None:
    """Stop and start each replica, with a pause until the next."""
    with world.fault():
        for replica in world.replicas:
            replica.stop()
            replica.start()
            time.sleep(pause_s)


def worker_killed(world: World) -> None:
    """A replica of two workers loses one by `kill -9`; its parent starts another."""
    with world.one_more("--workers", "2") as victim:
        workers = victim.children()
        with world.fault():
            os.kill(max(workers), signal.SIGKILL)
            until_s = time.monotonic() + 20
            while len(victim.children()) < len(workers) or max(workers) in victim.children():
                if time.monotonic() > until_s:
                    world.expect(False, "no new worker after 20 s")
                    break
                time.sleep(0.1)


def engine_killed(world: World) -> None:
    """`kill -9` of the engine process of one replica; the one that waits takes over."""
    with with_engine(world) as (victim, engine), world.fault():
        os.kill(engine, signal.SIGKILL)
        _await_new_engine(world, victim)


def engine_hung(world: World) -> None:
    """SIGSTOP of the engine process of one replica for four seconds."""
    with with_engine(world) as (_, engine), world.fault():
        os.kill(engine, signal.SIGSTOP)
        time.sleep(HOLD_S)
        os.kill(engine, signal.SIGCONT)


def engine_without_memory(world: World) -> None:
    """The engine of one replica gets no memory for four seconds, and is to open a model then."""
    current, other = TINY_VERSIONS
    with with_engine(world) as (replica, engine):
        with world.fault():
            before = resource.prlimit(engine, resource.RLIMIT_AS)
            resource.prlimit(engine, resource.RLIMIT_AS, (1, before[1]))
            status, answer = replica.call("POST", f"/admin/models/{other}/activate")
            world.notes.append(f"a model activated meanwhile: {status}, {answer}")
            time.sleep(HOLD_S)
            with contextlib.suppress(ProcessLookupError):  # it ended, and another one took over
                resource.prlimit(engine, resource.RLIMIT_AS, before)
        for version in (other, current):
            status, answer = replica.call("POST", f"/admin/models/{version}/activate")
            world.expect(status == 200, f"activation afterwards: {status} {answer}")


def engine_stuck(world: World) -> None:
    """SIGSTOP of the engine process of one replica, for good: it is replaced after a while."""
    with with_engine(world, "--engine-hung-s", "3") as (victim, engine), world.fault():
        os.kill(engine, signal.SIGSTOP)
        _await_new_engine(world, victim)


@contextlib.contextmanager
def with_engine(world: World, *arguments: str) -> Iterator[tuple[Replica, int]]:
    """One more replica, with an engine process that another one waits to replace."""
    with world.one_more("--engine", "process", *arguments) as replica:
        until_s = time.monotonic() + 20
        while len(replica.children()) < 2 and time.monotonic() < until_s:
            time.sleep(0.1)
        time.sleep(2.0)  # the one that waits has imported everything
        yield replica, replica.children()[0]


def _await_new_engine(world: World, replica: Replica) -> None:
    """Wait until it was seen that the engine is lost, and until another one answers."""
    began_s = time.monotonic()
    if await_readiness(world, replica, False) and await_readiness(world, replica, True):
        world.notes.append(f"another engine answers after {time.monotonic() - began_s:.1f} s")


def await_readiness(world: World, replica: Replica, is_ready: bool) -> bool:
    """Wait until a replica is ready, or isn't; False, and a failure, after 30 s."""
    until_s = time.monotonic() + 30
    while (replica.readiness()[0] == 200) is not is_ready:
        if time.monotonic() > until_s:
            world.expect(False, f"ready is {not is_ready} for 30 s")
            return False
        time.sleep(0.02)
    return True


def descriptors_exhausted(world: World) -> None:
    """All file descriptors of a replica are taken by idle connections, then freed."""
    victim = world.replicas[0]
    held: list[socket.socket] = []
    used = len(list(Path(f"/proc/{victim.pid}/fd").iterdir()))
    soft, hard = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)
    with world.fault():
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (used + 20, hard))
        for _ in range(200):
            with contextlib.suppress(OSError):
                held.append(socket.create_connection(("127.0.0.1", victim.port), timeout=1))
        time.sleep(HOLD_S)
        for connection in held:
            connection.close()
        resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (soft, hard))
    world.notes.append(f"{len(held)} connections held")


def log_disk_full(world: World) -> None:
    """A replica whose log can't be written answers all the same, also what it would log."""
    with world.one_more(log=Path("/dev/full")) as victim:
        with world.fault():
            world.store.freeze()  # each failure is a line in the log
            time.sleep(2.0)
            world.store.thaw()
        status, _ = victim.readiness()
        world.expect(status == 200, f"the replica with a full log says {status}")


LOSES: set[str] = set()
SCENARIOS: tuple[Callable[[World], None], ...] = (
    replica_killed,
    replica_stopped,
    rolling_restart,
    worker_killed,
    engine_killed,
    engine_hung,
    engine_stuck,
    engine_without_memory,
    descriptors_exhausted,
    log_disk_full,
)
