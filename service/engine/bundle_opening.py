"""Opens a bundle for serving and proves that it answers rightly before anyone asks it."""

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lsvcr.bundle import GOLDEN_TOLERANCE, Bundle, Golden
from lsvcr.errors import BundleError, LsvcrError
from lsvcr.history import HistoryBatch
from lsvcr.index_file import check_index_file
from service.engine.candidate_index import CandidateBatch, CandidateIndex, Index, Kind
from service.engine.cpu_nearest import CpuNearest
from service.engine.cuda_bundle import WarmCudaBundle
from service.engine.cuda_encoder import CudaEncoder, expect_cuda
from service.engine.cuda_head import CudaHead
from service.engine.cuda_nearest import CudaNearest
from service.engine.cuda_stream import Lane, Stream
from service.engine.encoder_session import CommentHead, CpuEncoder, FloatArray
from service.engine.first_look import CommentLook, FirstLook
from service.engine.scoring import KNOWN_PARTS
from service.engine.steps import at_once
from service.engine.warm_bundle import WarmBundle
from service.errors import NotReadyError

Device = Literal["auto", "cpu", "cuda"]

WARM_COUNT = 150
MIN_GOLDEN_OVERLAP = 0.8
"""Part of the golden best videos that the index must find: an approximate one misses a few."""

_CANDIDATES: dict[Kind, str] = {"video": "video_candidate_VD", "comment": "comment_candidate_CD"}

logger = logging.getLogger(__name__)


def open_warm(bundle: Bundle, device: Device, *, max_batch: int) -> tuple[WarmBundle, str | None]:
    """Open graphs and indexes, check them against the golden outputs, and warm them up.

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
        return _open_on_cpu(bundle, max_batch), None
    try:
        expect_cuda()
        return _open_on_gpu(bundle, max_batch), None
    except LsvcrError as error:
        if device == "cuda":
            raise
        logger.info("serving on the CPU: %s", error)
        return _open_on_cpu(bundle, max_batch), str(error)


def _open_on_cpu(bundle: Bundle, max_batch: int) -> WarmBundle:
    """One after another: cores are wanted by the checks beside, or by those who are answered."""
    parts = CpuEncoder(bundle), CommentHead(bundle)
    indexes = [_read_index(bundle, "video"), _read_index(bundle, "comment")]
    return _prove(WarmBundle(bundle, *parts, *indexes), max_batch)


def _open_on_gpu(bundle: Bundle, max_batch: int) -> WarmBundle:
    lanes: dict[Kind, Lane] = {"video": Lane(Stream()), "comment": Lane(Stream())}
    with ThreadPoolExecutor(2) as beside:
        videos, comments = (
            beside.submit(_put_on_gpu, bundle, kind, lane) for kind, lane in lanes.items()
        )
        encoder = CudaEncoder(bundle, lanes["video"], max_batch=max_batch)
        head = None
        if CudaHead.can_read(bundle.folder):
            head = CudaHead(bundle.folder, encoder, bundle.manifest.width)
        parts = encoder, CommentHead(bundle), videos.result(), comments.result()
    return _prove(WarmCudaBundle(bundle, *parts, lanes=lanes, head_there=head), max_batch)


def _prove(warm: WarmBundle, max_batch: int) -> WarmBundle:
    check_golden(warm)
    _warm_up(warm, warm.bundle.golden, max_batch)
    return warm


def _put_on_gpu(bundle: Bundle, kind: Kind, lane: Lane) -> Index:
    candidate_VD = bundle.tables[_CANDIDATES[kind]]
    if CudaNearest.can_search(candidate_VD):
        try:
            profile_CF = bundle.comment_profile_CF if kind == "comment" else None
            has_prior = kind == "video" and bundle.manifest.prior is not None
            return CudaNearest(candidate_VD, lane, parts_VF=profile_CF, takes_part=has_prior)
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
    if entry.kind == "flat" and CpuNearest.is_fast():
        check_index_file(path, entry, rows=len(candidate_VD) - 1, width=candidate_VD.shape[1])
        takes_part = kind == "video" and bundle.manifest.prior is not None
        return CpuNearest(candidate_VD, takes_part=takes_part)
    return CandidateIndex.load(path, entry, candidate_VD)


def check_golden(warm: WarmBundle) -> None:
    """Compare graphs and video index with the golden outputs; raises BundleError."""
    bundle, encoder, head = warm.bundle, warm.encoder, warm.head
    golden, query_VD = bundle.golden, bundle.tables["video_query_VD"]

    def run(history: HistoryBatch, target_BT: NDArray[np.int32]) -> tuple[FloatArray, FloatArray]:
        encoding = encoder.encode(history, with_states=True)
        videos = encoder.encode(history, with_states=False)  # by a graph of its own
        error = np.abs(videos.video_preference_BD - encoding.video_preference_BD).max()
        if not error <= GOLDEN_TOLERANCE:
            raise BundleError(f"the graphs' video preferences differ by {error:.2g}")
        preference_BTD, _ = head.prefer_comments(
            encoding.comment_state_BJD, history.comment_last_BJ, query_VD[target_BT]
        )
        as_served_BD = _preferences_as_served(warm, history, query_VD[target_BT[:, 0]])
        error = np.abs(as_served_BD - preference_BTD[:, 0]).max()
        if not error <= GOLDEN_TOLERANCE:
            raise BundleError(f"the graphs' comment preferences differ by {error:.2g}")
        return encoding.video_preference_BD, preference_BTD

    try:
        golden.check(run)
        users, best = golden.top_video_BK.shape
        found = warm.video_index.search(golden.video_preference_BD, [best] * users)
    except LsvcrError:
        raise
    except Exception as error:  # the runtime has a class of its own for each failure
        logger.warning("golden inputs: %s", error)
        raise BundleError("the graphs do not run on the golden inputs") from error
    _check_best_videos(golden, bundle.tables["video_candidate_VD"], found)


def _preferences_as_served(
    warm: WarmBundle, history: HistoryBatch, target_BD: FloatArray
) -> FloatArray:
    """What one question to the engine says of one target of each user."""
    users = len(target_BD)
    look = CommentLook(
        [*range(users)],
        np.column_stack([target_BD, np.zeros(users, np.float32)]),
        [0] * users,
        np.zeros((users, 0), np.float32),
    )
    encoded = at_once(warm.encode(history, FirstLook([0] * users, [0.0] * users, False, look)))
    assert encoded.comments is not None
    return encoded.comments.preference_AD


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
        history = golden.history.take([number % users for number in range(size)])
        counts, width = [WARM_COUNT] * size, warm.bundle.manifest.width
        target_BX = np.zeros((size, width + 1), np.float32)
        look = CommentLook([*range(size)], target_BX, counts, target_BX[:, :0])
        at_once(warm.encode(history, FirstLook(counts, [0.0] * size, True, look)))
