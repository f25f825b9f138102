"""Checks a FAISS index file before FAISS reads it.

FAISS believes what a file says of its own lengths: a few damaged bytes make it ask for all memory,
or end the process. A bundle's indexes are of three kinds, so that every byte but vectors and ids is
known beforehand or follows from the number of lists. Anything else is refused.

    flat       IxMp header · vectors · ids
    ivf_flat   IwFl header · nlist · nprobe · vectors (centroids) · no direct map · lists
    ivf_pq     IwPQ header · nlist · nprobe · vectors (centroids) · no direct map · residuals ·
               bytes of a vector · shortening · lists
    vectors    IxFI header · how many numbers · the numbers
    shortening width · parts of a vector · bits of a part · how many numbers · the numbers
    lists      ilar · nlist · bytes of a vector · their sizes · for each list vectors, then ids

A header is width, number of vectors, two reserved numbers, whether it is trained, and the metric.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import IndexEntry
from lsvcr.errors import BundleError

INNER_PRODUCT = 0
RESERVED = 2**20
FLOAT_BYTES, COUNT_BYTES = 4, 8
SHORT_BITS = 4
"""Of each number of a shortened vector."""


def check_index_file(path: Path, entry: IndexEntry, *, rows: int, width: int) -> None:
    """Compare a file with what the export writes for a catalogue; reads ids, but no vectors.

    Args:
        path: A file of the bundle's `index/`.
        entry: What the manifest says of it.
        rows: Candidates; each row from 1 to this must be there once.
        width: D.

    Raises:
        BundleError: Naming file and field.
    """
    name = f"index/{path.name}"
    try:
        content = np.asarray(np.memmap(path, np.uint8, mode="r"))  # a `memmap` is slow to slice
    except (OSError, ValueError) as error:  # numpy's word for an empty file is ValueError
        raise BundleError(f"{name} cannot be read or is empty") from error
    layout = _Layout(content, name)
    row_N = _READ_IDS[entry.kind](layout, rows, width)
    layout.expect_end()
    if not _is_each_once(row_N, rows):
        raise layout.refuse(f"does not hold every catalogue row from 1 to {rows} once")


class _Layout:
    """Goes through a file field by field; refuses what isn't as expected."""

    def __init__(self, content: NDArray[np.uint8], name: str) -> None:
        self._content = content
        self._name = name
        self._at = 0

    def take(self, field: str, size: int) -> NDArray[np.uint8]:
        """Pass over `size` bytes and return them, unread."""
        if size > len(self._content) - self._at:
            raise self.refuse(f"ends before the end of its {field}")
        self._at += size
        return self._content[self._at - size : self._at]

    def number(self, field: str, layout: str = "<q") -> Any:
        """Read one value of a `struct` layout."""
        return struct.unpack(layout, self.take(field, struct.calcsize(layout)).tobytes())[0]

    def expect(self, field: str, expected: int | bytes, layout: str = "<q") -> None:
        """Read one value that can only be this one."""
        found = self.number(field, layout)
        if found != expected:
            raise self.refuse(f"{field} is {found}, not {expected!r}")

    def expect_header(self, kind: bytes, rows: int, width: int) -> None:
        self.expect("kind", kind, "4s")
        self.expect("width", width, "<i")
        self.expect("number of vectors", rows)
        self.expect("first reserved number", RESERVED)
        self.expect("second reserved number", RESERVED)
        self.expect("mark that it is trained", 1, "<B")
        self.expect("metric", INNER_PRODUCT, "<i")

    def expect_vectors(self, rows: int, width: int) -> None:
        self.expect_header(b"IxFI", rows, width)
        self.expect("number of numbers", rows * width)
        self.take("vectors", rows * width * FLOAT_BYTES)

    def integers(self, field: str, count: int) -> NDArray[np.int64]:
        return np.frombuffer(self.take(field, count * COUNT_BYTES), "<i8")

    def expect_end(self) -> None:
        if self._at != len(self._content):
            raise self.refuse(f"has {len(self._content)} bytes, not {self._at}")

    def refuse(self, reason: str) -> BundleError:
        return BundleError(f"{self._name}: {reason}")


def _flat_ids(layout: _Layout, rows: int, width: int) -> NDArray[np.int64]:
    layout.expect_header(b"IxMp", rows, width)
    layout.expect_vectors(rows, width)
    layout.expect("number of ids", rows)
    return layout.integers("ids", rows)


def _whole_lists_ids(layout: _Layout, rows: int, width: int) -> NDArray[np.int64]:
    nlist = _read_centroids(layout, b"IwFl", rows, width)
    return _lists_ids(layout, nlist, rows, width * FLOAT_BYTES)


def _short_lists_ids(layout: _Layout, rows: int, width: int) -> NDArray[np.int64]:
    nlist = _read_centroids(layout, b"IwPQ", rows, width)
    vector_bytes = (width * SHORT_BITS + 7) // 8
    layout.expect("mark that vectors are residuals", 1, "<B")
    layout.expect("bytes of a vector", vector_bytes)
    layout.expect("width of a vector before it is shortened", width)
    layout.expect("parts of a vector", width)
    layout.expect("bits of a part", SHORT_BITS)
    layout.expect("number of numbers that parts stand for", width * 2**SHORT_BITS)
    layout.take("numbers that parts stand for", width * 2**SHORT_BITS * FLOAT_BYTES)
    return _lists_ids(layout, nlist, rows, vector_bytes)


def _read_centroids(layout: _Layout, kind: bytes, rows: int, width: int) -> int:
    """Go through what precedes all inverted lists; how many there are."""
    layout.expect_header(kind, rows, width)
    nlist, nprobe = layout.number("nlist"), layout.number("nprobe")
    if not 1 <= nprobe <= nlist:
        raise layout.refuse(f"nprobe is {nprobe}, with {nlist} lists")
    layout.expect_vectors(nlist, width)
    layout.expect("kind of direct map", 0, "<B")
    layout.expect("size of the direct map", 0)
    return int(nlist)


def _lists_ids(layout: _Layout, nlist: int, rows: int, vector_bytes: int) -> NDArray[np.int64]:
    layout.expect("kind of lists", b"ilar", "4s")
    layout.expect("number of lists", nlist)
    layout.expect("bytes of a listed vector", vector_bytes)
    size_L = _list_sizes(layout, nlist, rows)
    row_N, end = np.empty(rows, np.int64), 0
    for size in size_L.tolist():  # to join them afterwards would keep Python's lock for long
        layout.take("vectors of a list", size * vector_bytes)
        start, end = end, end + size
        row_N[start:end] = layout.integers("ids of a list", size)
    return row_N


def _list_sizes(layout: _Layout, nlist: int, rows: int) -> NDArray[np.int64]:
    """Sizes in the order of the lists; where most lists are empty, the file names the others."""
    form = layout.number("form of the lists' sizes", "4s")
    if form == b"full":
        layout.expect("number of sizes", nlist)
        size_L = layout.integers("sizes of the lists", nlist)
    elif form == b"sprs":
        count = layout.number("number of sizes")
        if not 0 <= count <= 2 * nlist or count % 2:
            raise layout.refuse(f"number of sizes is {count}, with {nlist} lists")
        number_L, size_L = layout.integers("sizes of the lists", count).reshape(-1, 2).T
        if (np.diff(number_L, prepend=-1, append=nlist) < 1).any():
            raise layout.refuse("sizes are of lists that do not exist, or out of order")
    else:
        raise layout.refuse(f"form of the lists' sizes is {form!r}")
    if size_L.min(initial=0) < 0 or size_L.max(initial=0) > rows or size_L.sum() != rows:
        raise layout.refuse(f"the lists' sizes do not add up to {rows}")
    return size_L


_READ_IDS = {"flat": _flat_ids, "ivf_flat": _whole_lists_ids, "ivf_pq": _short_lists_ids}


def _is_each_once(row_N: NDArray[np.int64], rows: int) -> bool:
    """Whether so many rows are those from 1 to `rows`, in any order; without sorting millions."""
    if row_N.min(initial=1) < 1 or row_N.max(initial=rows) > rows:
        return False
    is_there_V = np.zeros(rows, bool)
    is_there_V[row_N - 1] = True
    return bool(is_there_V.all())
