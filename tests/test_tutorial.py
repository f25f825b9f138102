"""The tutorial, run as it is written."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.service_process import free_port

ROOT = Path(__file__).parents[1]
STRICT = "set -euo pipefail\n"
PORT = "8123"


def test_the_tutorial_ends_in_recommendations(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) == 6
    free = str(free_port())
    script = STRICT + "\n".join(blocks).replace(PORT, free)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            output, _ = shell.communicate(timeout=540)
        finally:
            if shell.poll() is None:  # the service is in its group
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, output
    assert '"accepted":2' in output
    assert "ready to serve" in output
    feed, similar = re.findall(r'\{"recommendation_id".*?"timings_ms":\{.*?\}\}', output)
    assert '"source":"model"' in feed
    assert "cake" in feed and '"comments":[{"comment_id"' in feed
    assert "cake" in similar and "bike" not in similar
