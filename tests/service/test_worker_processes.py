"""Workers of a service whose first process was killed."""

import http.client
import os
import signal
from pathlib import Path

from live_service import running_process
from running_service import fetch, wait_for


def test_workers_end_with_the_process_that_started_them(
    tiny_registry: Path, store_url: str, tmp_path: Path
) -> None:
    settings = ("--redis", store_url, "--workers", "2")
    with running_process(tiny_registry, tmp_path, *settings, ends_with=-signal.SIGKILL) as live:
        port = int(live.url.rsplit(":", 1)[1])
        wait_for(lambda: _listens(port))
        os.kill(live.pid, signal.SIGKILL)
        wait_for(lambda: not _listens(port))


def _listens(port: int) -> bool:
    try:
        return bool(fetch(port, "/health/live"))
    except (ConnectionError, http.client.HTTPException):
        return False
