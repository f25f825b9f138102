"""Whatever isn't a vector is known of an index file: no other byte of it can change unseen."""

import struct
from pathlib import Path

import faiss
import numpy as np
import pytest
from tiny_bundle_builder import unit, write_index, write_lists, write_short_lists

from lsvcr.bundle import IndexEntry
from lsvcr.errors import BundleError
from lsvcr.index_file import check_index_file

ROWS, WIDTH, NLIST = 20, 8, 4
FLAT = IndexEntry(kind="flat", recall_at_100=1.0)
LISTS = IndexEntry(kind="ivf_flat", nprobe=1, recall_at_100=1.0)
SHORT = IndexEntry(kind="ivf_pq", nprobe=1, recall_at_100=1.0)
ENTRIES = {"flat": FLAT, "lists": LISTS, "one list": LISTS, "short": SHORT, "one short": SHORT}

HEADER = 37
FLAT_VECTORS = 2 * HEADER + 8
FLAT_IDS = FLAT_VECTORS + ROWS * WIDTH * 4
NPROBE = HEADER + 8
CENTROIDS = 2 * HEADER + 3 * 8
DIRECT_MAP = CENTROIDS + NLIST * WIDTH * 4
LISTS_KIND = DIRECT_MAP + 9
SHORTENED = LISTS_KIND + 1 + 5 * 8
SHORT_LISTS_KIND = SHORTENED + WIDTH * 16 * 4
SIZES_AFTER = 4 + 2 * 8 + 4 + 8
SIZES_FORM = LISTS_KIND + 4 + 2 * 8
SIZES = LISTS_KIND + SIZES_AFTER


@pytest.fixture(params=ENTRIES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path, kind: str) -> Path:
    table_ND = unit(np.random.default_rng(3).standard_normal((ROWS + 1, WIDTH)))
    if kind.startswith("one"):
        table_ND[1:] = table_ND[1]  # the other lists' sizes aren't written
    path = tmp_path / "video.faiss"
    if kind == "flat":
        write_index(path, table_ND)
    elif "list" in kind:
        write_lists(path, table_ND, NLIST)
    else:
        write_short_lists(path, table_ND, NLIST)
    return path


def check(path: Path, kind: str) -> None:
    check_index_file(path, ENTRIES[kind], rows=ROWS, width=WIDTH)


def frame(content: bytes, kind: str) -> list[int]:
    """Places of a file that hold no vector and nothing that may be chosen."""
    if kind == "flat":
        return [*range(FLAT_VECTORS), *range(FLAT_IDS, len(content))]
    places = [*range(NPROBE), *range(NPROBE + 8, CENTROIDS)]
    if "list" in kind:
        lists_kind, vector_bytes = LISTS_KIND, WIDTH * 4
        places += range(DIRECT_MAP, SIZES)
    else:
        lists_kind, vector_bytes = SHORT_LISTS_KIND, WIDTH // 2
        places += [*range(DIRECT_MAP, SHORTENED), *range(lists_kind, lists_kind + SIZES_AFTER)]
    sizes_at = lists_kind + SIZES_AFTER
    is_full = content[sizes_at - 12 : sizes_at - 8] == b"full"
    sizes = struct.unpack_from(f"<{NLIST}q" if is_full else "<qq", content, sizes_at)
    at = sizes_at + 8 * len(sizes)
    for size in sizes if is_full else sizes[1:]:
        places += range(at + size * vector_bytes, at + size * (vector_bytes + 8))
        at += size * (vector_bytes + 8)
    assert at == len(content)
    return places


def test_no_bit_can_change_but_those_of_vectors(path: Path, kind: str) -> None:
    check(path, kind)
    sound = path.read_bytes()
    for place in frame(sound, kind):
        for bit in range(8):
            content = bytearray(sound)
            content[place] ^= 1 << bit
            path.write_bytes(content)
            with pytest.raises(BundleError, match=r"index/video\.faiss"):
                check(path, kind)


def test_no_byte_can_be_missing_or_too_many(path: Path, kind: str) -> None:
    sound = path.read_bytes()
    for size in range(len(sound)):
        path.write_bytes(sound[:size])
        with pytest.raises(BundleError, match=r"ends before the end of its|is empty"):
            check(path, kind)
    path.write_bytes(sound + b"\0")
    with pytest.raises(BundleError, match=f"has {len(sound) + 1} bytes, not {len(sound)}"):
        check(path, kind)


@pytest.mark.parametrize(
    ("kind", "place", "layout", "value", "reason"),
    [
        ("flat", 0, "4s", b"IxHN", "kind is b'IxHN', not b'IxMp'"),
        ("flat", 4, "<i", 4, "width is 4, not 8"),
        ("flat", 8, "<q", 2**40, "number of vectors is 1099511627776, not 20"),
        ("flat", 32, "<B", 0, "mark that it is trained is 0, not 1"),
        ("flat", 33, "<i", 1, "metric is 1, not 0"),
        ("flat", 2 * HEADER, "<q", -1, "number of numbers is -1, not 160"),
        ("flat", FLAT_IDS, "<q", 2**61, "number of ids is"),
        ("flat", FLAT_IDS + 8, "<q", 2, "does not hold every catalogue row from 1 to 20 once"),
        ("lists", HEADER, "<q", 2**60, "number of vectors is 4, not"),
        ("lists", HEADER, "<q", -4, "nprobe is 1, with -4 lists"),
        ("lists", NPROBE, "<q", 5, "nprobe is 5, with 4 lists"),
        ("lists", DIRECT_MAP, "<B", 2, "kind of direct map is 2, not 0"),
        ("lists", LISTS_KIND, "4s", b"ilod", "kind of lists is b'ilod', not b'ilar'"),
        ("lists", LISTS_KIND + 12, "<q", 16, "bytes of a listed vector is 16, not 32"),
        ("lists", SIZES_FORM, "4s", b"none", "form of the lists' sizes is b'none'"),
        ("lists", SIZES, "<q", -1, "the lists' sizes do not add up to 20"),
        ("short", 0, "4s", b"IwFl", "kind is b'IwFl', not b'IwPQ'"),
        ("short", LISTS_KIND, "<B", 0, "mark that vectors are residuals is 0, not 1"),
        ("short", LISTS_KIND + 1, "<q", 2**40, "bytes of a vector is 1099511627776, not 4"),
        ("short", LISTS_KIND + 9, "<q", 0, "width of a vector before it is shortened is 0, not 8"),
        ("short", LISTS_KIND + 17, "<q", 4, "parts of a vector is 4, not 8"),
        ("short", LISTS_KIND + 25, "<q", 64, "bits of a part is 64, not 4"),
        ("short", LISTS_KIND + 33, "<q", 2**60, "number of numbers that parts stand for is"),
        ("short", SHORT_LISTS_KIND + 12, "<q", 32, "bytes of a listed vector is 32, not 4"),
        ("one list", SIZES, "<q", NLIST, "sizes are of lists that do not exist, or out of order"),
        ("one list", SIZES - 8, "<q", 2**40, "number of sizes is 1099511627776, with 4 lists"),
    ],
    indirect=["kind"],
)
def test_a_refusal_names_the_field(
    path: Path, kind: str, place: int, layout: str, value: int | bytes, reason: str
) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, place, value)
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"index/video.faiss: {reason}"):
        check(path, kind)


def test_an_index_is_of_the_kind_that_the_manifest_says(path: Path, kind: str) -> None:
    for other in (FLAT, LISTS, SHORT):
        if other != ENTRIES[kind]:
            with pytest.raises(BundleError, match="kind is"):
                check_index_file(path, other, rows=ROWS, width=WIDTH)


@pytest.mark.parametrize("kind", ["flat"], indirect=True)
def test_other_indexes_of_faiss_are_refused(path: Path, kind: str) -> None:
    vector_ND = np.eye(ROWS, WIDTH, dtype=np.float32)
    for description in ("Flat", "IDMap,SQ8", "HNSW4,Flat", "IDMap2,Flat"):
        index = faiss.index_factory(WIDTH, description, faiss.METRIC_INNER_PRODUCT)
        index.train(vector_ND)
        if description.startswith("IDMap"):
            index.add_with_ids(vector_ND, np.arange(1, ROWS + 1))
        else:
            index.add(vector_ND)
        faiss.write_index(index, str(path))
        with pytest.raises(BundleError, match="kind is"):
            check(path, kind)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    for name in ("video.faiss", "."):
        with pytest.raises(BundleError, match="cannot be read or is empty"):
            check_index_file(tmp_path / name, FLAT, rows=ROWS, width=WIDTH)
