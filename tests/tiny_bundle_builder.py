"""Writes small bundles whose graphs can be checked by hand, without any training.

The encoder adds up the rows that a history looks up and normalises the sum; attention grows with an
event's order. `encode` and `prefer_comments` say the same in numpy.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lsvcr.bundle import (
    MANIFEST,
    PROFILE_TABLE,
    Counts,
    Golden,
    IndexEntry,
    Manifest,
    PopularVideos,
    PriorEntry,
    ProfileEntry,
    describe_files,
)
from lsvcr.catalogue import Catalogue, build_catalogue
from lsvcr.history import NEVER, HistoryBatch, Timelines
from lsvcr.index_file import SHORT_BITS
from lsvcr.popularity import PriorLayer, PriorNetwork

TINY_VERSIONS = ("20260101T000000Z-aaaa", "20260102T000000Z-bbbb")
WIDTH = 8
MAX_HISTORY = 6
COMMENTS_PER_EVENT = 2
TEMPERATURE = 0.1
DAY_MS = 86_400_000
SEED_HOUR = 20_000 * 24
PRIOR = PriorEntry(
    half_lives_days=(7.0, 20.0),
    network=PriorNetwork(
        direct_H=(0.8, 0.4),
        layers=(
            PriorLayer(weight_OI=((0.5, -0.3), (-0.2, 0.4)), bias_O=(0.1, -0.05)),
            PriorLayer(weight_OI=((0.3, -0.2),), bias_O=(0.02,)),
        ),
    ),
    seed_hour=SEED_HOUR,
)
REPEAT = -0.75
PROFILE = ProfileEntry(scale=6.0, scale_by_count=1.5, events=3)

Tables = dict[str, NDArray[np.float32]]


def prior_logit(counts: Sequence[float]) -> float:
    """What `PRIOR` makes of one video's decayed counts, number by number."""
    x = [math.log1p(count) for count in counts]
    hidden = [
        max(0.0, 0.5 * x[0] - 0.3 * x[1] + 0.1),
        max(0.0, -0.2 * x[0] + 0.4 * x[1] - 0.05),
    ]
    return 0.8 * x[0] + 0.4 * x[1] + 0.3 * hidden[0] - 0.2 * hidden[1] + 0.02


def write_tiny_bundle(
    folder: Path,
    *,
    version: str,
    videos: int = 50,
    comments: int = 200,
    seed: int = 7,
    prior: PriorEntry | None = None,
    repeat_logit: float | None = None,
    profile: ProfileEntry | None = None,
) -> None:
    """Write a bundle of videos `v1`, `v2`, … and comments `c1`, `c2`, …

    Videos 11 to 14 are equal to the model, as are comments of equal text. Every tenth video has
    no category, every ninth no author, every eighth no time; the last video has no comment. A
    prior's seed knows nothing of every third video.
    """
    random = np.random.default_rng(seed)
    for name in ("catalogue", "tables", "popular", "index", "golden"):
        (folder / name).mkdir(parents=True)
    catalogue = tiny_catalogue(random, videos, comments)
    catalogue.save(folder / "catalogue")
    tables = _tables(random, videos, comments)
    for name, table in tables.items():
        np.save(folder / "tables" / f"{name}.npy", table)
    _popular(random, catalogue, prior).save(folder / "popular")
    if profile is not None:
        feature_CF = random.standard_normal((comments + 1, 5)).astype(np.float16)
        feature_CF[0] = 0
        np.save(folder / PROFILE_TABLE, feature_CF)
    indexes = {}
    for kind, table in (("video", "video_candidate_VD"), ("comment", "comment_candidate_CD")):
        write_index(folder / "index" / f"{kind}.faiss", tables[table])
        indexes[kind] = IndexEntry(kind="flat", recall_at_100=1.0)
    onnx.save(encoder_graph(), folder / "encoder.onnx")
    onnx.save(comment_head_graph(), folder / "comment_head.onnx")
    tiny_golden(catalogue, tables).save(folder / "golden")
    beside = {"prior": prior, "repeat": repeat_logit, "profile": profile}
    manifest = Manifest(
        format=1,
        version=version,
        created_at="2026-01-01T00:00:00Z",
        data_until_ms=SEED_HOUR * 3_600_000,
        width=WIDTH,
        max_history=MAX_HISTORY,
        comments_per_event=COMMENTS_PER_EVENT,
        temperature=TEMPERATURE,
        query_norm=1.5,
        score_parts=("encoder", *(name for name, part in beside.items() if part is not None)),
        prior=prior,
        repeat_logit=repeat_logit,
        profile=profile,
        counts=Counts(videos=videos, comments=comments, users=1, video_events=1, comment_events=0),
        indexes=indexes,  # type: ignore[arg-type]
        files=describe_files(folder),
        data_fingerprint="tiny",
        config={},
        metrics={},
        libraries={},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2))


def sign(folder: Path, **changes: object) -> None:
    """Describe a bundle's files anew after a test changed them, so that checksums agree."""
    manifest = json.loads((folder / MANIFEST).read_text())
    files = {name: entry.model_dump() for name, entry in describe_files(folder).items()}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": files, **changes}))


def tiny_catalogue(random: np.random.Generator, videos: int, comments: int) -> Catalogue:
    names = [f"v{number}" for number in range(1, videos + 1)]
    owners = random.integers(0, max(videos - 1, 1), comments)
    return build_catalogue(
        video_ids=names,
        titles=[f"title of {name}" for name in names],
        categories=[f"k{n % 4}" if n % 10 else None for n in range(1, videos + 1)],
        authors=[f"a{n % 7}" if n % 9 else None for n in range(1, videos + 1)],
        published_ms=[n * DAY_MS if n % 8 else None for n in range(1, videos + 1)],
        comment_ids=[f"c{number}" for number in range(1, comments + 1)],
        comment_texts=[f"text of c{number}" for number in range(1, comments + 1)],
        comment_video_ids=[names[owner] for owner in owners],
        likes=random.integers(0, 50, comments).tolist(),
    )


def tiny_golden(catalogue: Catalogue, tables: Tables) -> Golden:
    """Four users: none, one video, one comment at most, and a long history."""
    videos, comments = catalogue.video_count - 1, catalogue.comment_count - 1
    video_N = np.arange(12) % videos + 1
    comment_C = np.arange(9) % comments + 1 if comments else np.empty(0, np.int64)
    timelines = Timelines.build(
        users=4,
        video_user_N=np.array([1] + [3] * 11),
        video_N=video_N,
        video_time_N=np.arange(12) * DAY_MS,
        comment_user_C=np.array([2] + [3] * 8)[: len(comment_C)],
        comment_C=comment_C,
        comment_video_C=catalogue.comment_video_C[comment_C],
        comment_time_C=np.arange(len(comment_C)) * DAY_MS + 5,
        comments_per_event=COMMENTS_PER_EVENT,
    )
    history = timelines.latest_windows(MAX_HISTORY)
    target_BT = np.minimum(np.array([[1, 2]] * 4, np.int32), videos).astype(np.int32)
    preference_BD, state_BJD, _ = encode(history, tables)
    preference_BTD, _ = prefer_comments(
        state_BJD, history.comment_last_BJ, tables["video_query_VD"][target_BT]
    )
    score_BV = preference_BD @ tables["video_candidate_VD"][1:].T
    top_BK = np.argsort(-score_BV, axis=1, kind="stable")[:, :10] + 1
    top_BK[~preference_BD.any(axis=1)] = 0  # nobody's best videos
    return Golden(history, target_BT, preference_BD, preference_BTD, top_BK.astype(np.int32))


def write_index(path: Path, candidate_ND: NDArray[np.float32]) -> None:
    index = faiss.IndexIDMap(faiss.IndexFlatIP(candidate_ND.shape[1]))
    index.add_with_ids(candidate_ND[1:], np.arange(1, len(candidate_ND)))
    faiss.write_index(index, str(path))


def write_lists(path: Path, candidate_ND: NDArray[np.float32], nlist: int) -> None:
    """Write an ivf_flat index; the first candidates are its lists' centroids."""
    width = candidate_ND.shape[1]
    centroids = faiss.IndexFlatIP(width)
    centroids.add(candidate_ND[1 : nlist + 1])
    index = faiss.IndexIVFFlat(centroids, width, nlist, faiss.METRIC_INNER_PRODUCT)
    _fill_lists(index, path, candidate_ND)


def write_short_lists(path: Path, candidate_ND: NDArray[np.float32], nlist: int) -> None:
    """Write an ivf_pq index; the first candidates are its lists' centroids."""
    width = candidate_ND.shape[1]
    centroids = faiss.IndexFlatIP(width)
    centroids.add(candidate_ND[1 : nlist + 1])
    metric = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFPQ(centroids, width, nlist, width, SHORT_BITS, metric)
    _fill_lists(index, path, candidate_ND)


def _fill_lists(index: faiss.IndexIVF, path: Path, candidate_ND: NDArray[np.float32]) -> None:
    index.train(candidate_ND[1:])  # a full quantizer needs none
    index.add_with_ids(candidate_ND[1:], np.arange(1, len(candidate_ND)))
    faiss.write_index(index, str(path))


def encode(
    history: HistoryBatch, tables: Tables
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """What `encoder_graph` computes: video_preference, comment_state, video_share."""
    video_BID = tables["video_input_VD"][history.video_BI] * (history.video_BI > 0)[..., None]
    state_BJD = (
        tables["comment_video_input_VD"][history.comment_video_BJ]
        + tables["comment_input_CD"][history.comment_BJK].sum(axis=2)
    ) * (history.comment_video_BJ > 0)[..., None]
    preference_BD = unit(video_BID.sum(axis=1) + state_BJD.sum(axis=1))
    return preference_BD, state_BJD.astype(np.float32), share_by_order(history.video_order_BI)


def prefer_comments(
    state_BJD: NDArray[np.float32],
    last_BJ: NDArray[np.int32],
    target_BTD: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What `comment_head_graph` computes: comment_preference, comment_share."""
    share_BJ = share_by_order(last_BJ)
    read_BD = (share_BJ[..., None] * state_BJD).sum(axis=1)
    share_BTJ = np.repeat(share_BJ[:, None], target_BTD.shape[1], axis=1)
    return unit(target_BTD + read_BD[:, None]), share_BTJ


def share_by_order(order_BS: NDArray[np.int32]) -> NDArray[np.float32]:
    """Attention in proportion to order + 2: 1 for the start state, more for later events."""
    weight_BS = np.where(order_BS < NEVER, order_BS + 2, 0).astype(np.float32)
    return weight_BS / weight_BS.sum(axis=1, keepdims=True)


def unit(vector_D: NDArray[np.floating]) -> NDArray[np.float32]:
    norm = np.linalg.norm(vector_D, axis=-1, keepdims=True)
    return (vector_D / np.where(norm > 0, norm, 1)).astype(np.float32)


def encoder_graph() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Greater", ["video", "zero"], ["is_video"]),
        node("Cast", ["is_video"], ["is_video_f"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["is_video_f", "last"], ["is_video_3"]),
        node("Gather", ["video_input_VD", "video"], ["video_rows"]),
        node("Mul", ["video_rows", "is_video_3"], ["video_state"]),
        node("Greater", ["comment_video", "zero"], ["is_comment"]),
        node("Cast", ["is_comment"], ["is_comment_f"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["is_comment_f", "last"], ["is_comment_3"]),
        node("Gather", ["comment_video_input_VD", "comment_video"], ["comment_video_rows"]),
        node("Gather", ["comment_input_CD", "comment"], ["comment_rows"]),
        node("ReduceSum", ["comment_rows", "two"], ["comment_sum"], keepdims=0),
        node("Add", ["comment_video_rows", "comment_sum"], ["comment_both"]),
        node("Mul", ["comment_both", "is_comment_3"], ["comment_state"]),
        node("ReduceSum", ["video_state", "one"], ["video_sum"], keepdims=0),
        node("ReduceSum", ["comment_state", "one"], ["state_sum"], keepdims=0),
        node("Add", ["video_sum", "state_sum"], ["both"]),
        *_unit_nodes("both", "video_preference"),
        *_share_nodes("video_order", "video_share"),
        # The contract's inputs that this encoder has no use for, kept from being pruned.
        node("Identity", ["video_cut"], ["unused_video_cut"]),
        node("Identity", ["comment_last"], ["unused_comment_last"]),
        node("Identity", ["comment_cut"], ["unused_comment_cut"]),
    ]
    sides = {"video": "video_slots", "comment": "comment_slots"}
    inputs = [
        _value("video", TensorProto.INT32, "batch", sides["video"]),
        _value("video_order", TensorProto.INT32, "batch", sides["video"]),
        _value("video_cut", TensorProto.INT32, "batch", sides["video"]),
        _value("comment_video", TensorProto.INT32, "batch", sides["comment"]),
        _value("comment", TensorProto.INT32, "batch", sides["comment"], COMMENTS_PER_EVENT),
        _value("comment_last", TensorProto.INT32, "batch", sides["comment"]),
        _value("comment_cut", TensorProto.INT32, "batch", sides["comment"]),
        _value("video_input_VD", TensorProto.FLOAT, "videos", WIDTH),
        _value("comment_video_input_VD", TensorProto.FLOAT, "videos", WIDTH),
        _value("comment_input_CD", TensorProto.FLOAT, "comments", WIDTH),
    ]
    outputs = [
        _value("video_preference", TensorProto.FLOAT, "batch", WIDTH),
        _value("comment_state", TensorProto.FLOAT, "batch", sides["comment"], WIDTH),
        _value("video_share", TensorProto.FLOAT, "batch", sides["video"]),
    ]
    return _model("encoder", nodes, inputs, outputs)


def comment_head_graph() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        *_share_nodes("comment_last", "share"),
        node("Unsqueeze", ["share", "one"], ["share_B1J"]),
        node("MatMul", ["share_B1J", "comment_state"], ["read_B1D"]),
        node("Add", ["target", "read_B1D"], ["both"]),
        *_unit_nodes("both", "comment_preference"),
        node("Shape", ["target"], ["targets"], start=1, end=2),
        node("Concat", ["ones", "targets", "ones"], ["repeats"], axis=0),
        node("Tile", ["share_B1J", "repeats"], ["comment_share"]),
    ]
    inputs = [
        _value("comment_state", TensorProto.FLOAT, "batch", "comment_slots", WIDTH),
        _value("comment_last", TensorProto.INT32, "batch", "comment_slots"),
        _value("target", TensorProto.FLOAT, "batch", "targets", WIDTH),
    ]
    outputs = [
        _value("comment_preference", TensorProto.FLOAT, "batch", "targets", WIDTH),
        _value("comment_share", TensorProto.FLOAT, "batch", "targets", "comment_slots"),
    ]
    return _model("comment_head", nodes, inputs, outputs)


def _share_nodes(order: str, output: str) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Less", [order, "never"], [f"{output}_is_real"]),
        node("Add", [order, "two_i"], [f"{output}_later"]),
        node("Where", [f"{output}_is_real", f"{output}_later", "zero"], [f"{output}_weight_i"]),
        node("Cast", [f"{output}_weight_i"], [f"{output}_weight"], to=TensorProto.FLOAT),
        node("ReduceSum", [f"{output}_weight", "one"], [f"{output}_sum"], keepdims=1),
        node("Div", [f"{output}_weight", f"{output}_sum"], [output]),
    ]


def _unit_nodes(vector: str, output: str) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("ReduceL2", [vector, "last"], [f"{output}_norm"], keepdims=1),
        node("Max", [f"{output}_norm", "tiny"], [f"{output}_safe_norm"]),
        node("Div", [vector, f"{output}_safe_norm"], [output]),
    ]


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    constants = {
        "zero": np.array(0, np.int32),
        "two_i": np.array(2, np.int32),
        "never": np.array(NEVER, np.int32),
        "tiny": np.array(1e-12, np.float32),
        "ones": np.array([1], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "last": np.array([-1], np.int64),
    }
    used = {value for node in nodes for value in node.input}
    graph = helper.make_graph(
        nodes,
        name,
        inputs,
        outputs,
        [
            onnx.numpy_helper.from_array(value, key)
            for key, value in constants.items()
            if key in used
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _value(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _tables(random: np.random.Generator, videos: int, comments: int) -> Tables:
    tables = {}
    for name, rows in (
        ("video_input_VD", videos),
        ("comment_video_input_VD", videos),
        ("comment_input_CD", comments),
        ("video_query_VD", videos),
        ("video_candidate_VD", videos),
        ("comment_candidate_CD", comments),
    ):
        table = random.standard_normal((rows + 1, WIDTH)).astype(np.float32)
        table[0] = 0
        tables[name] = unit(table)
    tables["video_candidate_VD"][12:15] = tables["video_candidate_VD"][11:12]
    tables["comment_candidate_CD"][21:120:3] = tables["comment_candidate_CD"][20:21]
    return tables


def _popular(
    random: np.random.Generator, catalogue: Catalogue, prior: PriorEntry | None
) -> PopularVideos:
    overall_P = random.permutation(np.arange(1, catalogue.video_count)).astype(np.int32)
    code_P = catalogue.category_V[overall_P]
    by_category = np.argsort(code_P, kind="stable")
    starts = np.searchsorted(code_P[by_category], np.arange(len(catalogue.categories) + 1))
    half_lives = len(prior.half_lives_days) if prior else 0
    seed_HV = random.exponential(3, (half_lives, catalogue.video_count)).astype(np.float32)
    seed_HV[:, ::3] = 0
    return PopularVideos(overall_P, overall_P[by_category], starts.astype(np.int64), seed_HV)
