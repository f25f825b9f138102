"""Lets FAISS read damaged index files, within bounds of memory; to be run as a process of its own.

python -m tests.fuzz.index_damage FOLDER KIND SEED TIMES

It says before each try what it does, so that its last line names the one that ended it.
"""

import resource
import sys
from pathlib import Path

import numpy as np

from lsvcr.bundle import IndexEntry
from lsvcr.errors import BundleError
from service.engine.candidate_index import CandidateIndex
from tests.tiny_bundle_builder import unit, write_index, write_lists, write_short_lists

ROWS, WIDTH, NLIST = 20, 8, 4
ENTRIES = {
    "flat": IndexEntry(kind="flat", recall_at_100=1.0),
    "lists": IndexEntry(kind="ivf_flat", nprobe=NLIST, recall_at_100=1.0),
    "short lists": IndexEntry(kind="ivf_pq", nprobe=NLIST, recall_at_100=1.0),
}
MORE_MEMORY = 256 * 1024 * 1024
COUNTS = (-(2**63), -1, 0, 1, 21, 2**20, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1)


def damage(content: bytearray, random: np.random.Generator) -> str:
    """Change some bytes, or eight of them to a number that may be a length; maybe cut or add."""
    if random.random() < 0.5:
        changed = random.integers(0, len(content), random.integers(1, 9)).tolist()
        for place in changed:
            content[place] ^= int(random.integers(1, 256))
        what = f"bytes {changed} changed"
    else:
        place, value = int(random.integers(0, len(content) - 8)), int(random.choice(COUNTS))
        content[place : place + 8] = value.to_bytes(8, "little", signed=True)
        what = f"{value} at {place}"
    if random.random() < 0.2:
        del content[int(random.integers(0, len(content))) :]
        what += f", cut to {len(content)}"
    elif random.random() < 0.1:
        content += random.bytes(8)
        what += ", 8 more"
    return what


def main(folder: Path, kind: str, seed: int, times: int) -> None:
    """Read so many damaged files, in place and copied by turns; search those that pass."""
    random = np.random.default_rng(seed)
    path = folder / "video.faiss"
    table_ND = unit(random.standard_normal((ROWS + 1, WIDTH)))
    if kind == "flat":
        write_index(path, table_ND)
    elif kind == "lists":
        write_lists(path, table_ND, NLIST)
    else:
        write_short_lists(path, table_ND, NLIST)
    sound = path.read_bytes()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    searched = 0
    for number in range(times):
        content = bytearray(sound)
        print(number, damage(content, random), flush=True)
        path.unlink()  # the one before may still be mapped
        path.write_bytes(content)
        try:
            index = CandidateIndex.load(path, ENTRIES[kind], table_ND)
        except BundleError as refusal:
            assert "index/video.faiss" in str(refusal)
            continue
        index.search(table_ND[1:3], [5, ROWS])
        searched += 1
    print(f"searched {searched} of {times}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
