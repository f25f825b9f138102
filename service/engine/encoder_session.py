"""Runs a bundle's graphs on the CPU (`cuda_encoder` has the encoder on a GPU).

Shape suffixes: B users, A some of them, I and J slots of the video and comment side, T target
videos, D width, X of a target and one number more.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lsvcr.bundle import ENCODER_GRAPH, ENCODER_TABLES, HEAD_GRAPH, Bundle
from lsvcr.encoder import Encoder
from lsvcr.errors import BundleError
from lsvcr.history import NEVER, HistoryBatch
from service.engine.steps import Steps, at_once, go_on

FloatArray = NDArray[np.float32]

VIDEO_OUTPUTS = ("video_preference", "video_share")
ENCODER_OUTPUTS = (*VIDEO_OUTPUTS, "comment_state")
HEAD_OUTPUTS = ("comment_preference", "comment_share")

RUN = 8
"""Users encoded in one run on the CPU; between two of them the event loop has its turn. A run of 16
takes as long for each of them, and whoever is refused meanwhile waits twice as long for it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the encoder made of B histories.

    Attributes:
        video_preference_BD: Unit vectors in the space of candidate videos.
        video_share_BI: Attention of the video preference over the video slots; sums to 1.
        comment_state_BJD: What the comment head reads; no slots where it wasn't asked for.
    """

    video_preference_BD: FloatArray
    video_share_BI: FloatArray
    comment_state_BJD: FloatArray

    def without_states(self) -> "Encoding":
        """The same for whom the comment head has read them."""
        return replace(self, comment_state_BJD=self.comment_state_BJD[:, :0])

    @classmethod
    def join(cls, encodings: Sequence["Encoding"]) -> "Encoding":
        """Those of histories of as many slots; at least one."""
        if len(encodings) == 1:
            return encodings[0]
        return cls(
            np.concatenate([one.video_preference_BD for one in encodings]),
            np.concatenate([one.video_share_BI for one in encodings]),
            np.concatenate([one.comment_state_BJD for one in encodings]),
        )


class CommentHead:
    """The comment head, on one CPU thread."""

    def __init__(self, bundle: Bundle) -> None:
        self._session = open_session(bundle.folder / HEAD_GRAPH, one_thread())
        expect_outputs(self._session, HEAD_OUTPUTS, HEAD_GRAPH)

    def prefer_comments(
        self, comment_state_BJD: FloatArray, comment_last_BJ: NDArray[np.int32], target_BTD: Any
    ) -> tuple[FloatArray, FloatArray]:
        """Say which comments a user would like under each target video.

        Args:
            comment_state_BJD: From an encoder.
            comment_last_BJ: From the same history.
            target_BTD: float32, rows of `video_query_VD` or what stands in for them.

        Returns:
            `comment_preference_BTD`, unit vectors, and their attention over the comment slots,
            `comment_share_BTJ`.
        """
        feeds = {
            "comment_state": comment_state_BJD,
            "comment_last": comment_last_BJ,
            "target": target_BTD,
        }
        preference_BTD, share_BTJ = self._session.run(HEAD_OUTPUTS, feeds)
        return preference_BTD, share_BTJ

    def read(
        self,
        history: HistoryBatch,
        encoding: Encoding,
        users: Sequence[int],
        target_AX: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """The same for one target of each of some users, as `CommentLook` has them.

        Returns:
            `preference_AD` and `share_AJ`.
        """
        own_A1, preference_AD = target_AX[:, -1:], encoding.video_preference_BD[users]
        preference_A1D, share_A1J = self.prefer_comments(
            encoding.comment_state_BJD[users],
            history.comment_last_BJ[users],
            (target_AX[:, :-1] + own_A1 * preference_AD)[:, None],
        )
        return preference_A1D[:, 0], share_A1J[:, 0]


class CpuEncoder:
    """The encoder on one CPU thread, in any shape: by loops of our own, or by a graph.

    One thread per session: several pools in one process slow one another down by factors.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    batch_sizes: tuple[int, ...] = (1,)
    """Sizes that want a warm-up of their own."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._tables = {name: bundle.tables[name] for name in ENCODER_TABLES}
        self._open_encoder(bundle.folder)

    def encode(self, history: HistoryBatch, *, with_states: bool) -> Encoding:
        """Encode B >= 1 users; `with_states` also yields what the comment head reads."""
        return at_once(self.encode_in_steps(history, with_states=with_states))

    def encode_in_steps(self, history: HistoryBatch, *, with_states: bool) -> Steps[Encoding]:
        """The same run by run: between two of them a loop reads, and refuses, requests."""
        history = HistoryBatch(*map(np.ascontiguousarray, history.arrays().values()))
        users, slots = history.video_BI.shape
        states = history.comment_last_BJ.shape[1] if with_states else 0
        width = self._bundle.manifest.width
        encoding = Encoding(
            np.zeros((users, width), np.float32),
            np.zeros((users, slots), np.float32),
            np.zeros((users, states, width), np.float32),
        )
        for start in range(0, users, RUN):
            self.encode_run(encoding, history, np.arange(start, min(start + RUN, users)))
            yield go_on
        return encoding

    def encode_run(
        self, encoding: Encoding, history: HistoryBatch, row_B: NDArray[np.int64]
    ) -> None:
        """Encode some rows of a batch."""
        if self._loops is not None:
            self._loops.encode(
                history,
                row_B,
                preference_BD=encoding.video_preference_BD,
                share_BI=encoding.video_share_BI,
                state_BJD=encoding.comment_state_BJD,
            )
            return
        feeds = {**_rows(history, row_B).arrays(), **self._tables}
        preference_BD, share_BI, state_BJD = self._graph.run(ENCODER_OUTPUTS, feeds)
        encoding.video_preference_BD[row_B] = preference_BD
        encoding.video_share_BI[row_B, : share_BI.shape[1]] = share_BI
        states = min(encoding.comment_state_BJD.shape[1], state_BJD.shape[1])
        encoding.comment_state_BJD[row_B, :states] = state_BJD[:, :states]

    def let_go(self) -> None:
        """Free what is held elsewhere than here, piece by piece: nothing; it answers no more."""

    def describe(self) -> dict[str, object]:
        """Where and how the encoder runs, for the service's status."""
        lanes = None if self._loops is None else self._loops.lanes
        return {"device": self.device, "numbers_at_a_time": lanes}

    def _open_encoder(self, folder: Path) -> None:
        weight_W, shape = self._bundle.encoder_weight_W, self._bundle.manifest.encoder
        self._loops: Encoder | None = None
        if weight_W is not None and shape is not None:
            self._loops = Encoder(shape, weight_W, self._tables)
            return
        # As in bundles of versions that had no such weights
        self._graph = open_session(folder / ENCODER_GRAPH, one_thread())
        expect_outputs(self._graph, ENCODER_OUTPUTS, ENCODER_GRAPH)


def one_thread() -> Any:
    """Session options without a thread pool."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return options


def open_session(path: Path, options: Any, providers: Sequence[Any] = ()) -> Any:
    """Open a graph, with the CPU behind the given providers; raises BundleError."""
    # Skip-LayerNorm fusion makes the CPU 1.2 times slower and the GPU faster. Where a product adds
    # its bias by itself, a GPU writes the bias to every row first: a fifth of all of its time.
    disabled = ["MatMulAddFusion"] if providers else ["SkipLayerNormFusion"]
    try:
        return ort.InferenceSession(
            str(path),
            options,
            providers=[*providers, "CPUExecutionProvider"],
            disabled_optimizers=disabled,
        )
    except Exception as error:  # the runtime has a class of its own for each failure
        logger.warning("%s: %s", path.name, error)
        raise BundleError(f"{path.name} cannot be opened") from error


def expect_outputs(session: Any, expected: Sequence[str], name: str) -> None:
    """Raise BundleError if a graph lacks an output."""
    actual = {output.name for output in session.get_outputs()}
    if not actual.issuperset(expected):
        missing = ", ".join(sorted(set(expected) - actual))
        raise BundleError(f"{name} has no output {missing}")


def _rows(history: HistoryBatch, row_B: NDArray[np.int64]) -> HistoryBatch:
    """Take some rows and cut the padding on the right that all of them have."""
    videos = int(np.count_nonzero(history.video_order_BI[row_B] < NEVER, axis=1).max())
    comments = int(np.count_nonzero(history.comment_last_BJ[row_B] < NEVER, axis=1).max())
    return HistoryBatch(
        history.video_BI[row_B, :videos],
        history.video_order_BI[row_B, :videos],
        history.video_cut_BI[row_B, :videos],
        history.comment_video_BJ[row_B, :comments],
        history.comment_BJK[row_B, :comments],
        history.comment_last_BJ[row_B, :comments],
        history.comment_cut_BJ[row_B, :comments],
    )
