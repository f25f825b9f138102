"""How every benchmark tells what it found: medians with their spread, and where it was measured."""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "fastapi",
    "faiss-cpu",
    "faiss-gpu-cuvs",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "pydantic",
    "redis",
    "uvicorn",
)


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median, smallest and largest of some rounds."""
    return {
        "median": round(statistics.median(values), digits),
        "smallest": round(min(values), digits),
        "largest": round(max(values), digits),
    }


def surroundings() -> dict[str, Any]:
    """The machine, the versions and the revision that are measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "device": processor(),
        "gpus": gpus(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),  # above `cores`, others were at work too
        "python": " ".join(sys.version.split()),  # builds of one version differ by a quarter
        "libraries": {name: version for name in LIBRARIES if (version := installed(name))},
        "commit": commit(),
    }


def processor() -> str:
    """What the processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def gpus() -> list[str]:
    """What the driver calls them; none where there is no driver."""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError):
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip().splitlines()
    return []


def installed(library: str) -> str | None:
    """A library's version; None where it isn't there."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(library)
    return None


def commit() -> str:
    """The revision that is measured, marked where files were changed since."""
    asked = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def write_results(path: Path | None, found: dict[str, Any]) -> None:
    """Write what was found as JSON, if a file is wanted."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**surroundings(), **found}, indent=2) + "\n")
