"""Whether the test events were looked at before under the same configuration.

A configuration's test figures are written once: a second checkpoint of it, measured because the
first disappointed, would be chosen by the test events.
"""

import hashlib
from pathlib import Path

from training.checkpoint import BEST
from training.run_folder import RunFolder


def checkpoint_hash(run: RunFolder) -> str:
    """Of the weights that are measured."""
    return hashlib.sha256((run.path / BEST).read_bytes()).hexdigest()[:12]


def earlier_tests(run: RunFolder) -> list[Path]:
    """Run folders, this one or beside it, that measured another checkpoint of this configuration.

    They are known by the lines that `evaluate` leaves in their logs.
    """
    found = []
    for folder in sorted(run.path.resolve().parent.iterdir()):
        if not (folder / "log.jsonl").is_file() or not (folder / "config.json").is_file():
            continue
        tested = {
            line["checkpoint"]
            for line in RunFolder.read_log_of(folder)
            if line["step"] == "evaluate"
            and line.get("config_hash") == run.config.short_hash
            and line["data"] == run.source.fingerprint
        }
        if tested - {checkpoint_hash(run)}:
            found.append(folder)
    return found
