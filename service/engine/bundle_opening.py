"""Opens a bundle for serving and proves that it answers rightly before anyone asks it."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import GOLDEN_TOLERANCE, Bundle, Golden
from lsvcr.errors import BundleError, LsvcrError
from lsvcr.history import HistoryBatch
from service.engine.candidate_index import CandidateIndex, Candidates
from service.engine.cuda_encoder import CudaEncoder, expect_cuda
from service.engine.encoder_session import CpuEncoder, FloatArray
from service.engine.queries import CommentQuery, EventHistory, FeedQuery, Query, VideoQuery
from service.engine.ranker import Ranker
from service.engine.scoring import KNOWN_PARTS

Device = Literal["auto", "cpu", "cuda"]

MIN_GOLDEN_OVERLAP = 0.8
"""Part of the golden best videos that the index must find: an approximate one misses a few."""

logger = logging.getLogger(__name__)


def open_ranker(bundle: Bundle, device: Device, *, max_batch: int) -> tuple[Ranker, str | None]:
    """Open graphs and indexes, check them against the golden outputs, and warm them up.

    To be called in the thread that will run the ranker: a GPU's state belongs to one.

    Returns:
        The ranker, and the reason where `auto` went to the CPU.

    Raises:
        BundleError: If the bundle is damaged or disagrees with itself.
        NotReadyError: If `cuda` is wanted and can't be had.
    """
    unknown = set(bundle.manifest.score_parts) - KNOWN_PARTS
    if unknown:
        raise BundleError(f"score part {min(unknown)!r} is unknown to this version")
    if device == "cpu":
        return _open_on(bundle, CpuEncoder(bundle), max_batch), None
    try:
        expect_cuda()
        return _open_on(bundle, CudaEncoder(bundle, max_batch=max_batch), max_batch), None
    except LsvcrError as error:
        if device == "cuda":
            raise
        logger.info("serving on the CPU: %s", error)
        return _open_on(bundle, CpuEncoder(bundle), max_batch), str(error)


def _open_on(bundle: Bundle, encoder: CpuEncoder, max_batch: int) -> Ranker:
    on_gpu = encoder.device == "cuda"
    ranker = Ranker(
        bundle,
        encoder,
        _open_index(bundle, "video", bundle.manifest.counts.videos, on_gpu),
        _open_index(bundle, "comment", bundle.manifest.counts.comments, on_gpu),
    )
    check_golden(bundle.golden, ranker)
    _warm_up(ranker, max_batch)
    return ranker


def _open_index(
    bundle: Bundle, kind: Literal["video", "comment"], rows: int, on_gpu: bool
) -> CandidateIndex:
    width = bundle.manifest.width
    entry = bundle.manifest.indexes.get(kind)
    if rows == 0:
        return CandidateIndex.empty(width)
    if entry is None:
        raise BundleError(f"the manifest describes no {kind} index")
    path = bundle.folder / "index" / f"{kind}.faiss"
    return CandidateIndex.load(path, entry, rows=rows, width=width, on_gpu=on_gpu)


def check_golden(golden: Golden, ranker: Ranker) -> None:
    """Compare graphs and video index with the golden outputs; raises BundleError."""
    query_VD = ranker.bundle.tables["video_query_VD"]

    def run(history: HistoryBatch, target_BT: NDArray[np.int32]) -> tuple[FloatArray, FloatArray]:
        encoding = ranker.encoder.encode(history, with_comments=True)
        preference_BTD, _ = ranker.encoder.prefer_comments(
            encoding.comment_state_BJD, history.comment_last_BJ, query_VD[target_BT]
        )
        return encoding.video_preference_BD, preference_BTD

    try:
        golden.check(run)
        users, best = golden.top_video_BK.shape
        found = ranker.video_index.search(golden.video_preference_BD, [best] * users)
    except LsvcrError:
        raise
    except Exception as error:  # the runtime has a class of its own for each failure
        logger.warning("golden inputs: %s", error)
        raise BundleError("the graphs do not run on the golden inputs") from error
    _check_best_videos(golden, ranker.bundle.tables["video_candidate_VD"], found)


def _check_best_videos(
    golden: Golden, candidate_VD: FloatArray, found: Sequence[Candidates]
) -> None:
    """Compare by score, as equal videos may stand for one another."""
    if golden.top_video_BK.max(initial=0) >= len(candidate_VD):
        raise BundleError("golden top_video names videos that do not exist")
    hits = total = 0
    for row_K, preference_D, candidates in zip(
        golden.top_video_BK, golden.video_preference_BD, found, strict=True
    ):
        row_K = row_K[row_K > 0]
        expected_K = candidate_VD[row_K] @ preference_D
        found_K = candidate_VD[candidates.row_N[: len(row_K)]] @ preference_D
        if found_K.sum() > expected_K.sum() + len(row_K) * GOLDEN_TOLERANCE:
            raise BundleError("golden top_video: the index finds better ones")
        hits += int((found_K >= expected_K.min(initial=np.inf) - GOLDEN_TOLERANCE).sum())
        total += len(row_K)
    if hits < MIN_GOLDEN_OVERLAP * total:
        raise BundleError(f"golden top_video: the index finds {hits} of {total}")


def _warm_up(ranker: Ranker, max_batch: int) -> None:
    """Answer a full feed and comments at every batch size; nothing may be refused or degraded."""
    catalogue = ranker.bundle.catalogue
    video_hash_N = np.asarray(catalogue.video_index.sorted_hash_N[:3])
    comment_hash_M = np.asarray(catalogue.comment_index.sorted_hash_N[:3])
    history = EventHistory(
        video_hash_N,
        np.arange(len(video_hash_N), dtype=np.int64),
        comment_hash_M,
        np.arange(len(comment_hash_M), dtype=np.int64),
    )
    forever = float("inf")
    videos = VideoQuery(history, k=20, deadline_s=forever, exclude_seen=False)
    pair: list[Query] = [FeedQuery(videos, 3), CommentQuery(history, k=20, deadline_s=forever)]
    for size in sorted({*ranker.encoder.batch_sizes, 1, max_batch}):
        for answer in ranker.answer((pair * size)[:size]):
            if isinstance(answer, Exception) or answer.degraded:
                raise BundleError(f"warming up a batch of {size} failed")
