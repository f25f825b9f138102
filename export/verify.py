"""Checks a bundle as a service would, with real sessions: files, graphs, indexes, answers."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.bundle_writer import INDEX_FILES
from export.encoder_graph import check_graph
from export.parity import BundleGraphs
from lsvcr.bundle import ENCODER_WEIGHTS, GOLDEN_TOLERANCE, Bundle, Manifest, load_bundle
from lsvcr.errors import BundleError
from lsvcr.history import HistoryBatch
from lsvcr.index_file import check_index_file

FloatArray = NDArray[np.float32]


def verify_bundle(folder: Path) -> Manifest:
    """Read a bundle and run its golden inputs.

    Raises:
        BundleError: With the first thing that is missing, damaged or contradictory.
    """
    bundle = load_bundle(folder)
    for name in bundle.manifest.files:
        if name.endswith(".onnx"):
            check_graph(folder / name)
    _check_indexes(bundle)
    _check_golden(bundle)
    return bundle.manifest


def _check_indexes(bundle: Bundle) -> None:
    manifest = bundle.manifest
    candidates = {"video": manifest.counts.videos, "comment": manifest.counts.comments}
    for kind, file in INDEX_FILES.items():
        if kind not in manifest.indexes:
            raise BundleError(f"the manifest describes no {kind} index")
        check_index_file(
            bundle.folder / "index" / file,
            manifest.indexes[kind],
            rows=candidates[kind],
            width=manifest.width,
        )


def _check_golden(bundle: Bundle) -> None:
    encoders = [BundleGraphs(bundle.folder, bundle.tables)]
    if (shape := bundle.manifest.encoder) is not None:
        encoders.append(BundleGraphs(bundle.folder, bundle.tables, ENCODER_WEIGHTS, shape))
    golden = bundle.golden
    for graphs in encoders:
        golden.check(partial(_preferences, graphs))
    candidate_VD = bundle.tables["video_candidate_VD"]
    score_BV = golden.video_preference_BD @ candidate_VD.T
    best_BK = -np.sort(-score_BV[:, 1:], axis=1)[:, : golden.top_video_BK.shape[1]]
    score_BK = np.take_along_axis(score_BV, golden.top_video_BK, axis=1)
    if not np.abs(score_BK - best_BK).max() <= GOLDEN_TOLERANCE:
        raise BundleError("golden top_video: the candidate table ranks other videos first")


def _preferences(
    graphs: BundleGraphs, history: HistoryBatch, target_BT: NDArray[np.int32]
) -> tuple[FloatArray, FloatArray]:
    answers = graphs.answer(history, target_BT)
    return answers.video_preference_BD, answers.comment_preference_BTD
