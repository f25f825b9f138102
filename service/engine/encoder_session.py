"""Runs a bundle's two graphs on the CPU (`cuda_encoder` has the encoder on a GPU).

Shape suffixes: B users, I and J slots of the video and comment side, T target videos, D width.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lsvcr.bundle import Bundle
from lsvcr.errors import BundleError
from lsvcr.history import HistoryBatch

FloatArray = NDArray[np.float32]

ENCODER_TABLES = ("video_input_VD", "comment_video_input_VD", "comment_input_CD")
ENCODER_OUTPUTS = ("video_preference", "comment_state", "video_share")
HEAD_OUTPUTS = ("comment_preference", "comment_share")

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


class CpuEncoder:
    """Both graphs on one CPU thread, in any shape.

    One thread per session: several pools in one process slow one another down by factors.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    batch_sizes: tuple[int, ...] = (1,)
    """Sizes that want a warm-up of their own."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._tables = {name: bundle.tables[name] for name in ENCODER_TABLES}
        self._head = open_session(bundle.folder / "comment_head.onnx", one_thread())
        expect_outputs(self._head, HEAD_OUTPUTS, "comment_head.onnx")
        # Answering video queries only, the comment side's last layer isn't computed.
        self._needed_only = ort.RunOptions()
        self._needed_only.only_execute_path_to_fetches = True
        self._open_encoder(bundle.folder / "encoder.onnx")

    def encode(self, history: HistoryBatch, *, with_comments: bool) -> Encoding:
        """Encode B >= 1 users; `with_comments` also yields the comment head's input."""
        outputs = ENCODER_OUTPUTS if with_comments else ("video_preference", "video_share")
        arrays: list[FloatArray] = self._encoder.run(
            outputs, {**history.arrays(), **self._tables}, self._needed_only
        )
        result = dict(zip(outputs, arrays, strict=True))
        preference_BD = result["video_preference"]
        no_states_BJD = np.empty((len(preference_BD), 0, preference_BD.shape[1]), np.float32)
        return Encoding(
            preference_BD, result["video_share"], result.get("comment_state", no_states_BJD)
        )

    def prefer_comments(
        self, comment_state_BJD: FloatArray, comment_last_BJ: NDArray[np.int32], target_BTD: Any
    ) -> tuple[FloatArray, FloatArray]:
        """Say which comments a user would like under each target video.

        Args:
            comment_state_BJD: From `encode`.
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
        preference_BTD, share_BTJ = self._head.run(HEAD_OUTPUTS, feeds)
        return preference_BTD, share_BTJ

    def describe(self) -> dict[str, object]:
        """Where and how the encoder runs, for the service's status."""
        return {"device": self.device, "providers": self._encoder.get_providers()}

    def _open_encoder(self, path: Path) -> None:
        self._encoder = open_session(path, one_thread())
        expect_outputs(self._encoder, ENCODER_OUTPUTS, path.name)


def one_thread() -> Any:
    """Session options without a thread pool."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return options


def open_session(path: Path, options: Any, providers: Sequence[Any] = ()) -> Any:
    """Open a graph, with the CPU behind the given providers; raises BundleError."""
    # Skip-LayerNorm fusion makes the CPU 1.2 times slower and the GPU faster.
    disabled = [] if providers else ["SkipLayerNormFusion"]
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
