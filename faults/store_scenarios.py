"""What can happen to the store."""

import contextlib
import os
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from faults.synced_size import SyncedSize
from faults.world import World

HOLD_S = 4.0
NEARLY_S = 0.8
"""From a sync until shortly before the next one: when most is lost."""
EVERYSEC_S = 2.0
"""What Redis and Valkey may keep from the disk: a second, and another while a sync is slow."""


def store_killed(world: World) -> None:
    """`kill -9`, four seconds nothing, started again with its files."""
    with world.fault():
        world.store.kill()
        time.sleep(HOLD_S)
        world.store.start()


def store_restarted(world: World) -> None:
    """Stopped in order and started again, as for an upgrade."""
    with world.fault():
        world.store.stop()
        world.store.start()


def store_hung(world: World) -> None:
    """SIGSTOP: connections stay open, nothing is answered."""
    with world.fault():
        world.store.freeze()
        time.sleep(HOLD_S)
        world.store.thaw()


def store_slow(world: World) -> None:
    """Each answer comes 300 ms later than it should."""
    with world.fault():
        world.proxy.delay_s = 0.3
        time.sleep(HOLD_S)
        world.proxy.delay_s = 0.0


def store_flapping(world: World) -> None:
    """Cut for 400 ms, there for 400 ms, again and again."""
    with world.fault():
        for _ in range(5):
            world.proxy.cut()
            time.sleep(0.4)
            world.proxy.mend()
            time.sleep(0.4)


def store_full(world: World) -> None:
    """No memory for one more write; reads go on."""
    with world.store.client() as redis:
        redis.config_set("maxmemory-policy", "noeviction")
        with world.fault():
            redis.config_set("maxmemory", 1)
            time.sleep(HOLD_S)
            redis.config_set("maxmemory", 0)


def store_read_only(world: World) -> None:
    """It became a replica of a master that is gone: what a failover leaves behind."""
    with world.store.client() as redis, world.fault():
        redis.replicaof("127.0.0.1", 1)
        time.sleep(HOLD_S)
        redis.replicaof("NO", "ONE")


def store_password(world: World) -> None:
    """Its password changed, and all connections were dropped; then it was taken back."""
    with world.store.client() as redis, world.fault():
        redis.config_set("requirepass", "another")
        with world.store.client("another") as known:
            _drop_clients(known)
            time.sleep(HOLD_S)
            known.config_set("requirepass", "")


def store_empty(world: World) -> None:
    """Killed, and its files are gone: histories are lost, and that is all."""
    with world.fault():
        world.store.kill()
        world.store.wipe()
        world.store.start()


def store_power_cut(world: World) -> None:
    """A power cut with `everysec`: the server is killed, and what wasn't synced is cut off."""
    if not SyncedSize.can_watch():
        world.notes.append("not done: it takes strace")
        with world.fault():
            return
    with world.store.client() as redis:
        redis.config_set("appendfsync", "everysec")
    synced = SyncedSize(world.store, world.folder / "syncs")
    with contextlib.ExitStack() as stack:
        with synced.watch():
            time.sleep(HOLD_S)
            synced.await_next()
            time.sleep(NEARLY_S)
            stack.enter_context(world.fault())
            accepted, ended_s = world.accepted(), time.time()
            world.store.kill()
        os.truncate(world.store.log_file(), synced.size_bytes())
        world.store.start()
    lost = len(accepted - world.store.logged_event_ids())
    unsynced_s = ended_s - synced.syncs_s()[-1]
    may_be = int(EVERYSEC_S * world.events_per_s)
    world.notes.append(
        f"last sync {unsynced_s:.2f} s before; {lost} events lost of {may_be} at most"
    )
    world.expect(lost <= may_be, f"{lost} events lost, more than {may_be}")


def _drop_clients(redis) -> None:  # type: ignore[no-untyped-def]
    with contextlib.suppress(RedisError):
        redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


LOSES = {"store_empty", "store_power_cut"}
SCENARIOS: tuple[Callable[[World], None], ...] = (
    store_killed,
    store_restarted,
    store_hung,
    store_slow,
    store_flapping,
    store_full,
    store_read_only,
    store_password,
    store_empty,
    store_power_cut,
)
