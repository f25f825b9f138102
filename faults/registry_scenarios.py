"""What can happen to the registry, and while models change."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from faults.replica import Replica
from faults.world import World
from lsvcr.bundle import load_bundle
from lsvcr.errors import BundleError
from lsvcr.registry import CURRENT, list_versions, read_current, write_current
from tests.tiny_bundle_builder import TINY_VERSIONS, write_tiny_bundle

ACTIVATIONS = 100

PUBLISHER = """
import os, shutil, sys
from pathlib import Path
from export.publish import publishing, staged
from lsvcr.bundle import load_bundle
from lsvcr.registry import list_versions, read_current, write_current
from tests.tiny_bundle_builder import sign

registry, source, version, kill_each = Path(sys.argv[1]), *sys.argv[2:]

def publish(name):
    with publishing(registry), staged(registry, name) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        sign(folder, version=name)
    write_current(registry, name)

def publish_and_die(name, last_step):
    steps = 0
    def count(event, arguments):
        nonlocal steps
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod")
        writes |= event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & 3)
        if writes and str(registry) in str(arguments[0]):
            steps += 1
            if steps == last_step:
                os.kill(os.getpid(), 9)
    sys.addaudithook(count)
    publish(name)
    os._exit(0)

step, status = 0, 1
while kill_each == "yes" and status:
    step += 1
    child = os.fork()
    if not child:
        publish_and_die(f"{version}-{step:03d}", step)
    status = os.waitpid(child, 0)[1]
    newest = list_versions(registry)[-1]
    load_bundle(registry / newest)
    assert read_current(registry).version in list_versions(registry)
if kill_each == "no":
    publish(version)
print(step)
"""


def hundred_activations(world: World) -> None:
    """A hundred activations and rollbacks, while everybody is asked."""
    with world.fault():
        for number in range(ACTIVATIONS):
            replica = world.replicas[number % len(world.replicas)]
            if number % 3 == 2:
                status, answer = replica.call("POST", "/admin/models/rollback")
            else:
                version = TINY_VERSIONS[number % 2]
                status, answer = replica.call("POST", f"/admin/models/{version}/activate")
            world.expect(status == 200, f"activation {number}: {status} {answer}")


def current_file_damaged(world: World) -> None:
    """`current.json` is empty, cut, another thing, a folder and gone; what is loaded answers."""
    path = world.registry / CURRENT
    sound = path.read_bytes()
    with world.fault():
        for damaged in (b"", sound[:20], b'{"version": "../../etc"}', b"\xff\xfe", None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            time.sleep(0.8)  # more than the service takes to look
            for replica in world.replicas:
                status, _ = replica.readiness()
                world.expect(status == 200, f"not ready with {damaged!r}")
        path.write_bytes(sound)


def damaged_bundle_activated(world: World) -> None:
    """A bundle with a flipped bit becomes current; it is refused, the old one answers."""
    version = "20260103T000000Z-cccc"
    write_tiny_bundle(world.registry / version, version=version, seed=3)
    table = world.registry / version / "tables" / "video_input_VD.npy"
    content = bytearray(table.read_bytes())
    content[-3] ^= 4
    table.write_bytes(content)
    with world.fault():
        write_current(world.registry, version)
        time.sleep(2.0)
        status, answer = world.replicas[0].call("POST", f"/admin/models/{version}/activate")
        world.expect(status == 409, f"activating it: {status} {answer}")
        write_current(world.registry, TINY_VERSIONS[0])
    shutil.rmtree(world.registry / version)


def publish_killed(world: World) -> None:
    """`kill -9` at each step that writes; after each the newest version loads, one is current."""
    source = str(world.registry / TINY_VERSIONS[1])
    with world.fault():
        killed = _publish(world.registry, source, "20260201T000000Z", kill_each=True)
        world.expect(killed.returncode == 0, f"not whole: {killed.stderr[-300:]}")
        _publish(world.registry, source, "20260202T000000Z-last")
        _expect_whole(world, "after the last publish")
        world.expect(_leftovers(world.registry) == [], f"left: {_leftovers(world.registry)}")
    world.notes.append(f"killed at each of {killed.stdout.strip()} steps")


def two_publishers(world: World) -> None:
    """Five at once: one at a time gets in, the others are told so; all is whole."""
    source = str(world.registry / TINY_VERSIONS[1])
    with world.fault():
        running = [
            _start_publish(world.registry, source, f"20260301T000000Z-{number:04d}")
            for number in range(5)
        ]
        codes = [process.wait(60) for process in running]
        world.expect(0 in codes, "nobody could publish")
        _expect_whole(world, "after five publishers")
    world.notes.append(f"{codes.count(0)} of 5 published, the others were refused")


def registry_full(world: World) -> None:
    """No room for a new bundle (a limit on what a file may hold): refused, nothing is left."""
    source = str(world.registry / TINY_VERSIONS[1])
    before = list_versions(world.registry)
    with world.fault():
        done = _publish(world.registry, source, "20260401T000000Z-full", file_blocks=8)
        world.expect(done.returncode != 0, "published without room")
        world.expect("cannot be written" in done.stderr, f"said {done.stderr[-200:]}")
        world.expect(list_versions(world.registry) == before, "another version is there")
        world.expect(_leftovers(world.registry) == [], f"left: {_leftovers(world.registry)}")
        time.sleep(1.0)


def registry_read_only(world: World) -> None:
    """A replica whose registry is mounted read-only refuses to activate, and follows others."""
    registry = str(world.registry)
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    within = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, registry)
    with world.one_more(within=within) as replica:
        with world.fault():
            status, answer = replica.call("POST", f"/admin/models/{TINY_VERSIONS[1]}/activate")
            world.expect(status == 409, f"activating said {status} {answer}")
            world.expect("Read-only" in str(answer), f"the reason is {answer}")
            world.replicas[0].call("POST", f"/admin/models/{TINY_VERSIONS[1]}/activate")
            until_s = time.monotonic() + 20
            while _answering(replica) != TINY_VERSIONS[1] and time.monotonic() < until_s:
                time.sleep(0.1)
            world.expect(_answering(replica) == TINY_VERSIONS[1], "it doesn't follow")
        world.replicas[0].call("POST", f"/admin/models/{TINY_VERSIONS[0]}/activate")


def _answering(replica: Replica) -> str:
    version: str = replica.call("GET", "/health/ready")[1]["model"]["version"]
    return version


def _publish(
    registry: Path,
    source: str,
    version: str,
    *,
    kill_each: bool = False,
    file_blocks: int | None = None,
) -> "subprocess.CompletedProcess[str]":
    process = _start_publish(
        registry, source, version, kill_each=kill_each, file_blocks=file_blocks
    )
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _start_publish(
    registry: Path,
    source: str,
    version: str,
    *,
    kill_each: bool = False,
    file_blocks: int | None = None,
) -> "subprocess.Popen[str]":
    """Copy a bundle into the registry under another name, in a process of its own.

    It gives way to the service, as in `deploy/systemd`: else five at once take both cores.
    """
    arguments = [str(registry), source, version, "yes" if kill_each else "no"]
    command = ["nice", "-n", "10", sys.executable, "-c", PUBLISHER, *arguments]
    if file_blocks is not None:
        command = ["sh", "-c", f'ulimit -f {file_blocks}; exec "$0" "$@"', *command]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _expect_whole(world: World, when: str) -> None:
    """Every version that is listed loads, and the current one is among them."""
    try:
        versions = list_versions(world.registry)
        for version in versions[-2:]:
            load_bundle(world.registry / version)
        current = read_current(world.registry)
        world.expect(current is not None and current.version in versions, f"{when}: no current")
    except BundleError as error:
        world.expect(False, f"{when}: {error}")


def _leftovers(registry: Path) -> list[str]:
    """Half bundles; a half `current.json` is removed once it is old."""
    return sorted(path.name for path in registry.glob(".*.partial"))


LOSES: set[str] = set()
SCENARIOS: tuple[Callable[[World], None], ...] = (
    hundred_activations,
    current_file_damaged,
    damaged_bundle_activated,
    publish_killed,
    two_publishers,
    registry_full,
    registry_read_only,
)
