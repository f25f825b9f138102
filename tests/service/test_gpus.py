"""`--gpus 0,1` as an operator runs it: two engine processes, one of which is lost and comes back.

On the CPU, where the number of a GPU only says how many engines there are.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from experiment_apps import HISTORY
from running_service import Service, fetch, running, send, wait_for

from service.__main__ import main


def engines(service: Service) -> dict[str, int]:
    """Process ids of the engines, by the GPUs that they see."""
    threads = Path(f"/proc/{service.pid}/task").glob("*/children")  # one starts successors
    found = {}
    for child in " ".join(thread.read_text() for thread in threads).split():
        process = Path("/proc", child)
        if b"service.engine" in (process / "cmdline").read_bytes().split(b"\0"):
            variables = (process / "environ").read_bytes().decode().split("\0")
            seen = dict(one.partition("=")[::2] for one in variables)
            found[seen["CUDA_VISIBLE_DEVICES"]] = int(child)
    return found


def readiness(service: Service) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(fetch(service.port, "/health/ready"))
    return answer


def test_an_engine_lost_leaves_the_other_serving_and_readiness_says_reduced(
    tiny_master: Path, store_url: str
) -> None:
    with running(tiny_master, store_url, "--gpus", "0,1") as service:
        wait_for(lambda: readiness(service)["model"]["engines"] == 2)
        assert set(engines(service)) == {"0", "1"}
        lost = engines(service)["1"]
        os.kill(lost, signal.SIGKILL)
        wait_for(lambda: readiness(service)["status"] == "reduced")
        assert readiness(service)["degraded"] == ["engine 1"]
        for _ in range(5):
            answer = send(service.port, "/recommend/videos", {"history": HISTORY, "k": 3})
            assert (answer["source"], answer["degraded"]) == ("model", [])
        wait_for(lambda: readiness(service)["status"] == "ready")
        assert engines(service)["1"] != lost


def test_gpus_and_an_engine_inside_the_workers_contradict_each_other(
    tiny_master: Path, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--registry", str(tiny_master), "--redis", store_url, "--gpus", "0,1"]
    assert main([*arguments, "--engine", "inline"]) == 2
    assert "--gpus: wants engine processes" in capsys.readouterr().err
    assert main([*arguments[:-1], "0;1"]) == 2
    assert "--gpus: String should match pattern" in capsys.readouterr().err
