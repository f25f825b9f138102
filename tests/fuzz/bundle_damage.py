"""Ways to spoil a bundle. Each changes a folder and tells in a few words what it did.

`certain` damages must be refused. `random` ones may hit what nobody reads: refused or harmless.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
from hypothesis import assume
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tiny_bundle_builder import sign

from lsvcr.bundle import MANIFEST

Damage = Callable[[Path], str]

COLUMNS = (
    *("catalogue/category_V", "catalogue/author_V", "catalogue/published_V"),
    *("catalogue/video_id.offset", "catalogue/video_title.offset", "catalogue/authors.offset"),
    *("catalogue/comment_text.offset", "catalogue/comment_text.blob"),
    *("catalogue/comment_video_C", "catalogue/comment_start_V1"),
    *("catalogue/video_index.hash", "catalogue/video_index.row", "catalogue/comment_index.row"),
    *("popular/overall_P", "popular/by_category_Q", "popular/category_start"),
    *("popular/decayed_count_HV", "tables/video_input_VD", "tables/video_candidate_VD"),
    *("tables/comment_input_CD", "tables/comment_profile_CF"),
    *("golden/video", "golden/comment", "golden/target_BT", "golden/top_video_BK"),
    *("golden/video_preference_BD", "golden/comment_preference_BTD"),
)
ROWS = (
    *("catalogue/category_V", "catalogue/author_V", "catalogue/comment_video_C"),
    *("catalogue/comment_start_V1", "catalogue/video_index.row", "catalogue/comment_index.row"),
    *("popular/overall_P", "popular/by_category_Q", "popular/category_start"),
    *("catalogue/video_id.offset", "catalogue/comment_text.offset", "catalogue/categories.offset"),
    *("golden/target_BT", "golden/video", "golden/comment"),
)
FLOATS = (
    *("tables/video_input_VD", "tables/comment_video_input_VD", "tables/comment_input_CD"),
    *("tables/video_query_VD", "tables/video_candidate_VD", "tables/comment_candidate_CD"),
    *("tables/comment_profile_CF", "popular/decayed_count_HV"),
    *("golden/video_preference_BD", "golden/comment_preference_BTD"),
)
NAMES = (
    *("../outside.npy", "/etc/hostname", "tables/../../outside", "..\\outside", "./encoder.onnx"),
    *("tables//video_input_VD.npy", "", ".", "..", "tables/", "nul\0byte", "new\nline"),
)


def load(folder: Path, name: str) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.load(folder / f"{name}.npy")
    return array


def store(folder: Path, name: str, array: np.ndarray[Any, Any]) -> None:
    np.save(folder / f"{name}.npy", array, allow_pickle=True)
    sign(folder)


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads((folder / MANIFEST).read_text())
    edit(fields)
    (folder / MANIFEST).write_text(json.dumps(fields))


@st.composite
def files(draw: st.DrawFn) -> Damage:
    """A file is changed behind the manifest's back."""
    choice = draw(st.integers(0, 10_000))
    at, bit = draw(st.integers(0, 2**20)), draw(st.integers(0, 7))
    how = draw(st.sampled_from(("flip", "cut", "grow", "lose", "link", "folder", "pipe", "add")))

    def damage(folder: Path) -> str:
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
        path = paths[choice % len(paths)]
        content = bytearray(path.read_bytes())
        if how == "flip":
            content[at % len(content)] ^= 1 << bit
            path.write_bytes(content)
        elif how == "cut":
            path.write_bytes(content[: at % len(content)])
        elif how == "grow":
            path.write_bytes(content + b"\0")
        elif how == "add":
            (path.parent / "more.npy").write_bytes(b"\x93NUMPY")
        else:
            moved = folder.parent / f"{folder.name}-moved"
            moved.write_bytes(content)
            path.unlink()
            if how == "link":
                path.symlink_to(moved)
            elif how == "folder":
                path.mkdir()
            elif how == "pipe":
                os.mkfifo(path)
        return f"{how} {path.name}"

    return damage


@st.composite
def manifests(draw: st.DrawFn) -> Damage:
    """The manifest says what it may not say."""
    how = draw(st.sampled_from(sorted(_MANIFEST_EDITS)))
    name = draw(st.sampled_from(NAMES))
    key = draw(
        st.sampled_from(
            ("format", "version", "width", "max_history", "temperature", "counts", "files")
        )
    )
    value = draw(
        st.sampled_from(
            (None, "x", [], {}, -1, 0, 2**63, 1e400, -1e400, float("nan"), True, 10**400)
        )
    )

    def damage(folder: Path) -> str:
        _MANIFEST_EDITS[how](folder, name, key, value)
        return f"{how} {name!r} {key} {value!r}"[:200]

    return damage


def _name_outside(folder: Path, name: str, key: str, value: Any) -> None:
    entry = {"size_bytes": 0, "sha256": "0" * 64}
    edit_manifest(folder, lambda fields: fields["files"].update({name: entry}))


def _lose_key(folder: Path, name: str, key: str, value: Any) -> None:
    edit_manifest(folder, lambda fields: fields.pop(key) and None)


def _wrong_value(folder: Path, name: str, key: str, value: Any) -> None:
    edit_manifest(folder, lambda fields: fields.update({key: value}))


def _more(folder: Path, name: str, key: str, value: Any) -> None:
    edit_manifest(folder, lambda fields: fields.update({"surprise": value}))


def _twice(folder: Path, name: str, key: str, value: Any) -> None:
    text = (folder / MANIFEST).read_text()
    fields = json.loads(text)
    again = json.dumps({key: fields[key]})[1:-1]
    (folder / MANIFEST).write_text(f"{{{again}, {text.lstrip()[1:]}")


def _deep(folder: Path, name: str, key: str, value: Any) -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    (folder / MANIFEST).write_text(f'{{"config": {deep}}}')


def _not_utf8(folder: Path, name: str, key: str, value: Any) -> None:
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"tiny"', b'"t\xffny"'))


def _huge(folder: Path, name: str, key: str, value: Any) -> None:
    os.truncate(folder / MANIFEST, 2**40)  # sparse: a terabyte that takes no room


def _link(folder: Path, name: str, key: str, value: Any) -> None:
    moved = folder.parent / f"{folder.name}-manifest"
    os.replace(folder / MANIFEST, moved)
    (folder / MANIFEST).symlink_to(moved)


def _pipe(folder: Path, name: str, key: str, value: Any) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


_MANIFEST_EDITS = {
    "name outside": _name_outside,
    "lose": _lose_key,
    "wrong value": _wrong_value,
    "unknown key": _more,
    "twice": _twice,
    "deep": _deep,
    "not utf-8": _not_utf8,
    "huge": _huge,
    "link": _link,
    "pipe": _pipe,
}


@st.composite
def arrays(draw: st.DrawFn) -> Damage:
    """An array has another type or shape, or data that are not there; checksums agree."""
    name = draw(st.sampled_from(COLUMNS))
    how = draw(st.sampled_from(sorted(_ARRAY_EDITS)))
    is_sound = name == "popular/overall_P" and how in ("shorter", "empty")  # the rest is appended
    assume(not is_sound)

    def damage(folder: Path) -> str:
        _ARRAY_EDITS[how](folder, name)
        return f"{how} {name}"

    return damage


def _claim(folder: Path, name: str, shape: tuple[int, ...]) -> None:
    """Write a header for an array whose data are not there."""
    array = load(folder, name)
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
    with (folder / f"{name}.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
        file.write(array.tobytes())
    sign(folder)


def _big_endian(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(array.dtype.newbyteorder(">")) if array.itemsize > 1 else array[None]


_STRUCTURE = np.dtype([("a", "<i4"), ("b", "<f4")])
_ARRAY_EDITS: dict[str, Callable[[Path, str], None]] = {
    "as float64": lambda f, n: store(f, n, load(f, n).astype(np.float64)),
    "as bool": lambda f, n: store(f, n, load(f, n).astype(bool)),
    "as text": lambda f, n: store(f, n, load(f, n).astype("U4")),
    "as objects": lambda f, n: store(f, n, load(f, n).astype(object)),
    "as complex": lambda f, n: store(f, n, load(f, n).astype(np.complex64)),
    "as structure": lambda f, n: store(f, n, np.zeros(load(f, n).shape, _STRUCTURE)),
    "big-endian": lambda f, n: store(f, n, _big_endian(load(f, n))),
    "one dimension more": lambda f, n: store(f, n, load(f, n)[..., None]),
    "no dimension": lambda f, n: store(f, n, load(f, n).reshape(-1)[:1].reshape(())),
    "longer": lambda f, n: store(f, n, np.concatenate([load(f, n)] * 2)),
    "shorter": lambda f, n: store(f, n, load(f, n)[:-1]),
    "empty": lambda f, n: store(f, n, load(f, n)[:0]),
    "claims 8 TB": lambda f, n: _claim(f, n, (2**40, 8)),
    "claims more than a number holds": lambda f, n: _claim(f, n, (2**62, 2**62)),
    "claims less than nothing": lambda f, n: _claim(f, n, (-1,)),
    "no array": lambda f, n: ((f / f"{n}.npy").write_bytes(b"PK\3\4zip"), sign(f))[1],
}


@st.composite
def values(draw: st.DrawFn) -> Damage:
    """One number of an array is wrong; checksums agree."""
    is_row = draw(st.booleans())
    name = draw(st.sampled_from(ROWS if is_row else FLOATS))
    value = draw(st.sampled_from((-1, -(2**31), 2**31 - 1))) if is_row else draw(NOT_FINITE)
    place = draw(st.integers(0, 10_000))

    def damage(folder: Path) -> str:
        array = load(folder, name)
        array.reshape(-1)[place % array.size] = value
        store(folder, name, array)
        return f"{value} in {name}"

    return damage


NOT_FINITE = st.sampled_from((np.nan, np.inf, -np.inf))


@st.composite
def texts(draw: st.DrawFn) -> Damage:
    """A text column's bytes are no UTF-8, or its offsets cut a character; checksums agree."""
    column = draw(st.sampled_from(("video_id", "video_title", "comment_id", "comment_text")))
    cuts = draw(st.booleans())

    def damage(folder: Path) -> str:
        name = f"catalogue/{column}.blob"
        blob = load(folder, name)
        offset = load(folder, f"catalogue/{column}.offset")
        # a character of two bytes, across the border of two texts or as a lone half
        border = int(offset[3])
        blob[border - 1 : border + 1] = (0xC3, 0xA4) if cuts else (0x41, 0xFF)
        store(folder, name, blob)
        return f"{'cut character' if cuts else 'no UTF-8'} in {column}"

    return damage


def _with_external_data(folder: Path, location: str) -> None:
    """Let an initialiser of a graph be read from another file."""
    model = onnx.load(folder / "comment_head.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "tiny")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (folder.parent / "damaged-weights.bin").write_bytes(b"\1\2\3\4")
    (folder / "comment_head.onnx").write_bytes(model.SerializeToString())
    sign(folder)


def _bomb(folder: Path) -> None:
    """A graph of some bytes that makes terabytes."""
    path = folder / "comment_head.onnx"
    model = onnx.load(path)
    size = helper.make_tensor("size", TensorProto.INT64, [1], [2**42])
    model.graph.initializer.append(size)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["bomb"]))
    model.graph.node.insert(1, helper.make_node("ReduceSum", ["bomb"], ["defused"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["unarmed", "defused"], ["comment_preference"]))
    for node in model.graph.node:
        if node.op_type == "Div" and node.output[0] == "comment_preference":
            node.output[0] = "unarmed"
    path.write_bytes(model.SerializeToString())
    sign(folder)


def _other_metric(folder: Path) -> None:
    index = faiss.IndexIDMap(faiss.IndexFlatL2(8))
    vectors = load(folder, "tables/video_candidate_VD")
    index.add_with_ids(vectors[1:], np.arange(1, len(vectors)))
    faiss.write_index(index, str(folder / "index" / "video.faiss"))
    sign(folder)


def _lists_elsewhere(folder: Path) -> None:
    """An index whose vectors are in a file of its own choice."""
    vectors = load(folder, "tables/video_candidate_VD")[1:]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(8), 8, 2, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    elsewhere = folder.parent / f"{folder.name}-lists"
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(elsewhere))
    index.replace_invlists(lists, False)
    index.add_with_ids(vectors, np.arange(1, len(vectors) + 1))
    faiss.write_index(index, str(folder / "index" / "video.faiss"))
    del index
    sign(folder)


TRICKS: dict[str, Callable[[Path], None]] = {
    "external data above": lambda f: _with_external_data(f, "../damaged-weights.bin"),
    "external data by full path": lambda f: _with_external_data(f, "/etc/hostname"),
    "external data of a device": lambda f: _with_external_data(f, "/dev/zero"),
    "external data that is missing": lambda f: _with_external_data(f, "weights.bin"),
    "external data of an array": lambda f: _with_external_data(f, "tables/video_query_VD.npy"),
    "a graph that makes terabytes": _bomb,
    "an index of another metric": _other_metric,
    "an index whose lists are elsewhere": _lists_elsewhere,
}


@st.composite
def tricks(draw: st.DrawFn) -> Damage:
    """Graphs and indexes that are valid in themselves, but not in a bundle."""
    name = draw(st.sampled_from(sorted(TRICKS)))

    def damage(folder: Path) -> str:
        TRICKS[name](folder)
        return name

    return damage


@st.composite
def random_bytes(draw: st.DrawFn) -> Damage:
    """Some bytes of one file are others; checksums agree."""
    choice = draw(st.integers(0, 10_000))
    places = draw(
        st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=8)
    )
    is_cut = draw(st.booleans())

    def damage(folder: Path) -> str:
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
        path = paths[choice % len(paths)]
        content = bytearray(path.read_bytes())
        for place, change in places:
            content[place % len(content)] ^= change
        path.write_bytes(content[: places[0][0] % len(content)] if is_cut else content)
        sign(folder)
        return f"{'cut and ' if is_cut else ''}changed {path.relative_to(folder)}"

    return damage


CERTAIN = {
    "files": files(),
    "manifest": manifests(),
    "arrays": arrays(),
    "values": values(),
    "texts": texts(),
    "tricks": tricks(),
}
