"""Opens a bundle for serving and proves that it answers rightly before anyone asks it."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import GOLDEN_TOLERANCE, Bundle, Golden
from lsvcr.errors import BundleError, LsvcrError
from lsvcr.history import HistoryBatch
from service.engine.candidate_index import CandidateBatch, CandidateIndex, Index, Kind
from service.engine.cuda_encoder import CudaEncoder, expect_cuda
from service.engine.cuda_nearest import SEARCHED_SIZES, CudaNearest
from service.engine.encoder_session import CommentHead, CpuEncoder, FloatArray
from service.engine.scoring import KNOWN_PARTS
from service.errors import NotReadyError

Device = Literal["auto", "cpu", "cuda"]

WARM_COUNT = 150
MIN_GOLDEN_OVERLAP = 0.8
"""Part of the golden best videos that the index must find: an approximate one misses a few."""

_CANDIDATES: dict[Kind, str] = {"video": "video_candidate_VD", "comment": "comment_candidate_CD"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmBundle:
    """A bundle with its encoder and indexes, checked and warmed up.

    One thread owns the encoder; indexes may be searched from any, soonest from that one and from
    the one that has recorded its searches.
    """

    bundle: Bundle
    encoder: CpuEncoder
    video_index: Index
    comment_index: Index

    def find_videos(
        self, preference_BD: FloatArray, counts: Sequence[int], weights: Sequence[float]
    ) -> CandidateBatch:
        """Find each user's nearest videos, or by the prior, too, where the index has it."""
        # What isn't finite finds nothing, and must not disturb its neighbours.
        query_BX = np.where(np.isfinite(preference_BD), preference_BD, np.float32(0))
        if self.video_index.extent.takes_parts and any(weights):
            weight_B = np.array(weights, np.float32) * np.float32(self.bundle.manifest.temperature)
            query_BX = np.column_stack([query_BX, weight_B])
        return self.video_index.search(query_BX, counts)

    def record_searches(self) -> None:
        """Record what a GPU does for few queries, in the thread that will search and not encode."""
        for index in (self.video_index, self.comment_index):
            if isinstance(index, CudaNearest):
                index.record(SEARCHED_SIZES)

    def let_go(self) -> None:
        """Free what is on a GPU, in many turns: others may be answered there."""
        for part in (self.encoder, self.video_index, self.comment_index):
            part.let_go()


def open_warm(bundle: Bundle, device: Device, *, max_batch: int) -> tuple[WarmBundle, str | None]:
    """Open graphs and indexes, check them against the golden outputs, and warm them up.

    To be called in the thread that will encode: a recorded graph belongs to one.

    Returns:
        What was opened, and the reason where `auto` went to the CPU.

    Raises:
        BundleError: If the bundle is damaged or disagrees with itself.
        NotReadyError: If `cuda` is wanted and can't be had.
    """
    unknown = set(bundle.manifest.score_parts) - KNOWN_PARTS
    if unknown:
        raise BundleError(f"score part {min(unknown)!r} is unknown to this version")
    if device == "cpu":
        return _open_on(bundle, CpuEncoder, max_batch), None
    try:
        expect_cuda()
        return _open_on(bundle, partial(CudaEncoder, max_batch=max_batch), max_batch), None
    except LsvcrError as error:
        if device == "cuda":
            raise
        logger.info("serving on the CPU: %s", error)
        return _open_on(bundle, CpuEncoder, max_batch), str(error)


def _open_on(
    bundle: Bundle, open_encoder: Callable[[Bundle], CpuEncoder], max_batch: int
) -> WarmBundle:
    if open_encoder is CpuEncoder:
        # One after another: cores are wanted by the checks beside, or by those who are answered.
        encoder = open_encoder(bundle)
        indexes = [_read_index(bundle, "video"), _read_index(bundle, "comment")]
    else:
        with ThreadPoolExecutor(2) as beside:
            opening = [
                beside.submit(_open_on_gpu, bundle, "video"),
                beside.submit(_open_on_gpu, bundle, "comment"),
            ]
            encoder = open_encoder(bundle)
            indexes = [index.result() for index in opening]
    video_index, comment_index = indexes
    if isinstance(video_index, CudaNearest):  # comments are too many, and another thread's
        video_index.record()
    warm = WarmBundle(bundle, encoder, video_index, comment_index)
    check_golden(bundle, encoder, warm.video_index)
    _warm_up(warm, bundle.golden, max_batch)
    return warm


def _open_on_gpu(bundle: Bundle, kind: Kind) -> Index:
    folder, candidate_VD = bundle.folder, bundle.tables[_CANDIDATES[kind]]
    if CudaNearest.can_search(folder, candidate_VD):
        try:
            profile_CF = bundle.comment_profile_CF if kind == "comment" else None
            has_prior = kind == "video" and bundle.manifest.prior is not None
            return CudaNearest(folder, candidate_VD, parts_VF=profile_CF, takes_part=has_prior)
        except NotReadyError as error:  # the CPU answers the same, only later
            logger.warning("%ss are searched for on the CPU: %s", kind, error)
    return _read_index(bundle, kind)


def _read_index(bundle: Bundle, kind: Kind) -> Index:
    candidate_VD = bundle.tables[_CANDIDATES[kind]]
    entry = bundle.manifest.indexes.get(kind)
    if len(candidate_VD) == 1:
        return CandidateIndex.empty(candidate_VD.shape[1])
    if entry is None:
        raise BundleError(f"the manifest describes no {kind} index")
    path = bundle.folder / "index" / f"{kind}.faiss"
    return CandidateIndex.load(path, entry, candidate_VD)


def check_golden(bundle: Bundle, encoder: CpuEncoder, video_index: Index) -> None:
    """Compare graphs and video index with the golden outputs; raises BundleError."""
    golden, query_VD = bundle.golden, bundle.tables["video_query_VD"]
    head = CommentHead(bundle)

    def run(history: HistoryBatch, target_BT: NDArray[np.int32]) -> tuple[FloatArray, FloatArray]:
        encoding = encoder.encode(history, with_comments=True)
        videos = encoder.encode(history, with_comments=False)  # by a graph of its own
        error = np.abs(videos.video_preference_BD - encoding.video_preference_BD).max()
        if not error <= GOLDEN_TOLERANCE:
            raise BundleError(f"the graphs' video preferences differ by {error:.2g}")
        preference_BTD, _ = head.prefer_comments(
            encoding.comment_state_BJD, history.comment_last_BJ, query_VD[target_BT]
        )
        return encoding.video_preference_BD, preference_BTD

    try:
        golden.check(run)
        users, best = golden.top_video_BK.shape
        found = video_index.search(golden.video_preference_BD, [best] * users)
    except LsvcrError:
        raise
    except Exception as error:  # the runtime has a class of its own for each failure
        logger.warning("golden inputs: %s", error)
        raise BundleError("the graphs do not run on the golden inputs") from error
    _check_best_videos(golden, bundle.tables["video_candidate_VD"], found)


def _check_best_videos(golden: Golden, candidate_VD: FloatArray, found: CandidateBatch) -> None:
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


def _warm_up(warm: WarmBundle, golden: Golden, max_batch: int) -> None:
    """Encode and search at every batch size, so that no request pays for a first time."""
    users = len(golden.history.video_BI)
    for size in sorted({*warm.encoder.batch_sizes, 1, max_batch}):
        rows = [number % users for number in range(size)]
        arrays = golden.history.arrays().values()
        history = HistoryBatch(*(array[rows] for array in arrays))
        preference_BD = warm.encoder.encode(history, with_comments=True).video_preference_BD
        warm.find_videos(preference_BD, [WARM_COUNT] * size, [0.0] * size)
        warm.comment_index.search(preference_BD, [WARM_COUNT] * size)
