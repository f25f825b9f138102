import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError
from running_service import wait_for

from service.embedded_store import EmbeddedStore, EmbeddedStoreError, lasting_store


def test_what_was_written_is_there_after_a_restart(store_folder: Path) -> None:
    for expected in (None, b"kept"):
        with EmbeddedStore(store_folder) as embedded, Redis.from_url(embedded.url) as redis:
            assert redis.get("key") == expected
            redis.set("key", "kept")


@pytest.mark.parametrize("name", ["with space and ü", "long" * 50])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    with EmbeddedStore(tmp_path / name) as embedded, Redis.from_url(embedded.url) as redis:
        assert redis.ping()


def test_no_network_port_is_opened(store_folder: Path) -> None:
    with EmbeddedStore(store_folder) as embedded, Redis.from_url(embedded.url) as redis:
        assert redis.config_get("port") == {"port": "0"} or redis.config_get("port") == {
            b"port": b"0"
        }


def test_a_second_service_is_refused_the_folder(store_folder: Path) -> None:
    with (
        EmbeddedStore(store_folder),
        pytest.raises(EmbeddedStoreError, match="another running service"),
    ):
        EmbeddedStore(store_folder).start()


def test_the_server_that_a_killed_service_left_is_replaced(store_folder: Path) -> None:
    program = (
        "import os, sys, pathlib; from service.embedded_store import EmbeddedStore;"
        "store = EmbeddedStore(pathlib.Path(sys.argv[1])); store.start();"
        "print(store.pid, flush=True); os._exit(1)"
    )
    left = subprocess.run(
        [sys.executable, "-c", program, str(store_folder)], capture_output=True, text=True
    )
    orphan = int(left.stdout)
    os.kill(orphan, 0)  # still running
    with EmbeddedStore(store_folder) as embedded, Redis.from_url(embedded.url) as redis:
        assert redis.ping()
        assert embedded.pid != orphan


def test_a_server_that_is_killed_is_started_again_with_what_it_had(store_folder: Path) -> None:
    with lasting_store(store_folder) as embedded, Redis.from_url(embedded.url) as redis:
        redis.set("key", "kept")
        time.sleep(1.1)  # the append-only file reaches the disk each second
        for _ in range(2):
            killed = embedded.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            wait_for(lambda: _holds(redis, "key", b"kept"))
            assert embedded.pid != killed
    assert embedded.pid is None
    with EmbeddedStore(store_folder):
        pass  # its folder is free


def _holds(redis: Redis, key: str, value: bytes) -> bool:
    try:
        return redis.get(key) == value
    except ConnectionError:  # the next server is being started
        return False


def test_damaged_files_are_told_with_the_servers_reason(store_folder: Path) -> None:
    with EmbeddedStore(store_folder), Redis.from_url(EmbeddedStore(store_folder).url) as redis:
        redis.set("key", "value")
    manifest = next(store_folder.glob("appendonlydir/*.manifest"))
    manifest.write_text("nonsense")
    with pytest.raises(EmbeddedStoreError, match=r"did not start .*valkey\.log"):
        EmbeddedStore(store_folder).start()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedStoreError, match="can't start"):
        EmbeddedStore(tmp_path / "file" / "store").start()
