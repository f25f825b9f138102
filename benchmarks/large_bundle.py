"""Bundles of millions of items, made in seconds from a small invented one: same graphs, more rows.

Vectors are drawn around what the small bundle's encoder makes of invented users, so that queries
lie where candidates are, as after training; the index's lists are the clusters they were drawn
from, and it probes as many as recall at 100 needs.

Shape suffixes: V videos, C comments, N rows at hand, L lists, Q queries, D width.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile

import faiss
import numpy as np
from numpy.typing import DTypeLike, NDArray

from benchmarks.invented_users import build_timelines, invent_events
from export.candidate_index import (
    FLAT_BELOW,
    IndexOptions,
    build_index,
    probe_enough,
    write_index,
)
from lsvcr.bundle import (
    ENCODER_WEIGHTS,
    MANIFEST,
    PROFILE_TABLE,
    Bundle,
    Counts,
    Golden,
    IndexEntry,
    PopularVideos,
    describe_files,
    load_bundle,
)
from lsvcr.catalogue import Catalogue, IdIndex, TextColumn, item_hashes
from lsvcr.history import HistoryBatch
from lsvcr.index_file import SHORT_BITS
from lsvcr.registry import list_versions, write_current
from service.engine.encoder_session import CommentHead, CpuEncoder

SMALL = 2_000
CHUNK = 250_000
ASKERS, ASKED = 512, 100
SPREAD = 1.0
"""Length of the noise around a cluster's centre, which is a unit vector."""

FloatArray = NDArray[np.float32]


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """What benchmarks take that run on either device and with catalogues of any size."""
    parser.add_argument("--videos", type=int, default=100_000, help="in the invented bundle")
    parser.add_argument("--comments", type=int, default=300_000, help="in the invented bundle")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeat", type=int, default=20, help="calls in one round")
    parser.add_argument("--work", type=Path, required=True, help="folder for bundles and stores")
    parser.add_argument("--out", type=Path, help="JSON file")


def large_registry_of(folder: Path, videos: int, comments: int) -> Path:
    """A registry with a bundle of so many items, made if it isn't there yet."""
    registry = folder / f"registry-{videos}-{comments}"
    if not (registry / "current.json").exists():
        small = folder / f"registry-{SMALL}"
        if not (small / "current.json").exists():
            from benchmarks.invented_bundle import registry_of  # needs torch

            registry_of(folder, SMALL)
        bundle = load_bundle(small / list_versions(small)[0])
        counts = bundle.manifest.counts  # golden histories name its rows
        if videos < counts.videos or comments < counts.comments:
            raise SystemExit(f"at least {counts.videos} videos and {counts.comments} comments")
        version = f"invented-{videos}"
        (registry / version).mkdir(parents=True)
        write_large_bundle(bundle, registry / version, videos=videos, comments=comments)
        write_current(registry, version)
    return registry


def write_large_bundle(small: Bundle, folder: Path, *, videos: int, comments: int) -> None:
    """Write a bundle with the graphs of another and so many items into an empty folder."""
    for name in ("tables", "index", "catalogue", "popular", "golden"):
        (folder / name).mkdir()
    for path in (*small.folder.glob("*.onnx"), small.folder / ENCODER_WEIGHTS):
        copyfile(path, folder / path.name)
    catalogue = _catalogue(videos, comments)
    catalogue.save(folder / "catalogue")
    seeds_QD = _preferences(small)
    tables, lists = _write_tables(small, seeds_QD, folder / "tables", videos, comments)
    if small.comment_profile_CF is not None:
        _repeat(small.comment_profile_CF, comments, folder / PROFILE_TABLE, seed=9)
    _popular(small, videos).save(folder / "popular")
    grown = Bundle(**{**vars(small), "tables": tables, "catalogue": catalogue})
    golden = _golden(grown)
    golden.save(folder / "golden")
    asked_QD = np.concatenate([golden.video_preference_BD, _preferences(grown)[:ASKED]])
    indexes = {}
    for kind, name in (("video", "video_candidate_VD"), ("comment", "comment_candidate_CD")):
        path = folder / "index" / f"{kind}.faiss"
        indexes[kind] = _write_index(path, tables[name], lists[name], asked_QD)
    counts = small.manifest.counts.model_copy(update={"videos": videos, "comments": comments})
    manifest = small.manifest.model_copy(
        update={
            "version": folder.name,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "counts": Counts(**counts.model_dump()),
            "indexes": indexes,
            "files": describe_files(folder),
        }
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _catalogue(videos: int, comments: int) -> Catalogue:
    random = np.random.default_rng(1)
    video_C = np.sort(random.integers(1, videos + 1, comments)).astype(np.int32)
    start_V1 = np.searchsorted(video_C, np.arange(videos + 2)).astype(np.int64) + 1
    video_id, comment_id = _numbered("video-", videos), _numbered("comment-", comments)
    number_V = np.arange(videos + 1, dtype=np.int32)
    return Catalogue(
        video_id=video_id,
        video_title=_numbered("The invented title of video number ", videos),
        category_V=np.where(number_V > 0, number_V % 20 + 1, 0).astype(np.int32),
        author_V=np.where(number_V > 0, number_V % 997 + 1, 0).astype(np.int32),
        published_V=1_700_000_000_000 + number_V.astype(np.int64) * 1000,
        categories=_numbered("category ", 20),
        authors=_numbered("author ", 997),
        comment_id=comment_id,
        comment_text=_numbered("What somebody wrote as comment number ", comments),
        comment_video_C=np.concatenate([[0], video_C]).astype(np.int32),
        comment_start_V1=start_V1,
        video_index=_index_ids(video_id),
        comment_index=_index_ids(comment_id),
    )


def _numbered(prefix: str, count: int) -> TextColumn:
    """An empty text, then the prefix with the numbers from 1 to `count`, all of one length."""
    digits = len(str(count))
    number_N = np.arange(1, count + 1)
    text_NB = np.empty((count, len(prefix) + digits), np.uint8)
    text_NB[:, : len(prefix)] = np.frombuffer(prefix.encode(), np.uint8)
    for place in range(digits):
        text_NB[:, -1 - place] = number_N // 10**place % 10 + ord("0")
    offset_N1 = np.concatenate([[0], np.arange(count + 1) * text_NB.shape[1]])
    return TextColumn(text_NB.reshape(-1), offset_N1.astype(np.int64))


def _index_ids(ids: TextColumn) -> IdIndex:
    count = len(ids) - 1
    width = int(ids.offset_N1[-1]) // max(count, 1)
    parts = [
        (ids.blob_B[start * width : min(start + CHUNK, count) * width].tobytes(), width)
        for start in range(0, count, CHUNK)
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        hash_N = np.concatenate([*pool.map(_hash_all, parts)])
    order_N = np.argsort(hash_N)
    return IdIndex(hash_N[order_N], (order_N + 1).astype(np.int32))


def _hash_all(part: tuple[bytes, int]) -> NDArray[np.uint64]:
    text, width = part
    return item_hashes([text[at : at + width].decode() for at in range(0, len(text), width)])


def _preferences(bundle: Bundle) -> FloatArray:
    """What the encoder makes of invented users: the directions that will be asked for."""
    events = invent_events(bundle.catalogue, ASKERS, seed=5)
    keep = bundle.manifest.comments_per_event
    timelines = build_timelines(bundle.catalogue, events, ASKERS, keep)
    history = timelines.latest_windows(bundle.manifest.max_history)
    return CpuEncoder(bundle).encode(history, with_states=False).video_preference_BD


def _write_tables(
    small: Bundle, seeds_QD: FloatArray, folder: Path, videos: int, comments: int
) -> tuple[dict[str, FloatArray], dict[str, tuple[FloatArray, NDArray[np.int32]]]]:
    """Every table, mapped from its file, and for the candidates each row's cluster."""
    tables, lists = {}, {}
    for seed, (name, table) in enumerate(small.tables.items()):
        rows = videos if name.endswith("VD") else comments
        path = folder / f"{name}.npy"
        if "candidate" in name:
            tables[name], *clusters = _clustered(seeds_QD, rows, path, seed)
            lists[name] = (clusters[0], clusters[1])
        else:
            tables[name] = _repeat(table, rows, path, seed)
    return tables, lists


def _map_new(path: Path, shape: tuple[int, int], dtype: DTypeLike) -> NDArray[np.floating]:
    """An array in a new file, as all of them would not fit into memory together."""
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def _repeat(
    table_ND: NDArray[np.floating], rows: int, path: Path, seed: int
) -> NDArray[np.floating]:
    """The padding row, the table's own rows, then as many of them again as are wanted."""
    source_N = np.random.default_rng(seed).integers(1, len(table_ND), rows + 1)
    own = min(len(table_ND), rows + 1)
    source_N[:own] = np.arange(own)
    repeated = _map_new(path, (rows + 1, table_ND.shape[1]), table_ND.dtype)

    def fill(start: int) -> None:
        repeated[start : start + CHUNK] = table_ND[source_N[start : start + CHUNK]]

    _in_threads(fill, rows + 1)
    return repeated


def _clustered(
    seeds_QD: FloatArray, rows: int, path: Path, seed: int
) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
    """Unit vectors around centres that lie around the seeds; also the centres and whose each is."""
    random = np.random.default_rng(seed)
    width = seeds_QD.shape[1]
    lists = max(1, min(2 ** round(np.log2(4 * np.sqrt(rows))), rows // 16))
    noise_LD = random.standard_normal((lists, width), np.float32) / np.float32(np.sqrt(width))
    centre_LD = _unit(seeds_QD[random.integers(0, len(seeds_QD), lists)] + SPREAD * noise_LD)
    owner_N = random.integers(0, lists, rows + 1).astype(np.int32)
    vector_ND = _map_new(path, (rows + 1, width), np.float32)

    def fill(start: int) -> None:
        own = np.random.default_rng([seed, start])
        owner = owner_N[start : start + CHUNK]
        noise = own.standard_normal((len(owner), width), np.float32) / np.float32(np.sqrt(width))
        vector_ND[start : start + CHUNK] = _unit(centre_LD[owner] + np.float32(0.5) * noise)

    _in_threads(fill, rows + 1)
    vector_ND[0] = 0
    return vector_ND, centre_LD, owner_N


def _in_threads(fill: Callable[[int], None], rows: int) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, rows, CHUNK)))


def _unit(vector_ND: FloatArray) -> FloatArray:
    unit_ND: FloatArray = vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return unit_ND


def _popular(small: Bundle, videos: int) -> PopularVideos:
    random = np.random.default_rng(7)
    row_P = random.permutation(videos).astype(np.int32) + 1
    category_P = row_P % 20 + 1
    half_lives = len(small.popular.decayed_count_HV)
    return PopularVideos(
        overall_P=row_P,
        by_category_Q=row_P[np.argsort(category_P, kind="stable")],
        category_start=np.concatenate(
            [[0], np.cumsum(np.bincount(category_P, minlength=21))]
        ).astype(np.int64),
        decayed_count_HV=random.pareto(1.0, (half_lives, videos + 1)).astype(np.float32),
    )


def _golden(grown: Bundle) -> Golden:
    """The small bundle's golden histories, answered with these tables."""
    golden, tables = grown.golden, grown.tables
    encoding = CpuEncoder(grown).encode(golden.history, with_states=True)
    preference_BTD, _ = CommentHead(grown).prefer_comments(
        encoding.comment_state_BJD,
        golden.history.comment_last_BJ,
        tables["video_query_VD"][golden.target_BT],
    )
    best = golden.top_video_BK.shape[1]
    score_BV = encoding.video_preference_BD @ tables["video_candidate_VD"].T
    score_BV[:, 0] = -np.inf
    top_BK = np.argpartition(score_BV, -best, axis=1)[:, -best:]
    order_BK = np.argsort(-np.take_along_axis(score_BV, top_BK, axis=1), axis=1)
    return Golden(
        HistoryBatch(*golden.history.arrays().values()),
        golden.target_BT,
        encoding.video_preference_BD,
        preference_BTD,
        np.take_along_axis(top_BK, order_BK, axis=1).astype(np.int32),
    )


def _write_index(
    path: Path,
    candidate_ND: FloatArray,
    lists: tuple[FloatArray, NDArray[np.int32]],
    asked_QD: FloatArray,
) -> IndexEntry:
    """Exact below `FLAT_BELOW` rows, inverted lists above."""
    width = candidate_ND.shape[1]
    vector_ND, row_N = candidate_ND[1:], np.arange(1, len(candidate_ND))
    if len(vector_ND) < FLAT_BELOW:
        index, entry = build_index(candidate_ND, [asked_QD], IndexOptions())
        write_index(index, path)
        return entry
    centre_LD, owner_N = lists
    centroids = faiss.IndexFlatIP(width)
    centroids.add(centre_LD)
    nlist, metric = len(centre_LD), faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFPQ(centroids, width, nlist, width, SHORT_BITS, metric)
    index.train(vector_ND[:CHUNK])  # what stands for numbers; the centroids are there
    list_N = owner_N[1:].astype(np.int64)  # known beforehand: finding them takes minutes
    pointers = (faiss.swig_ptr(array) for array in (vector_ND, row_N, list_N))
    index.add_core(len(vector_ND), *pointers)
    entry = probe_enough(index, candidate_ND, [asked_QD], most_probed=1)
    write_index(index, path)
    return entry
