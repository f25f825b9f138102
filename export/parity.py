"""Does the exported bundle answer as the trained model does? Sample histories and both answers.

Shape suffixes: U users, B batch, I and J slots of the video and comment side, T target videos,
N video events, C single comment events, K best videos, D model width.
"""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from lsvcr.bundle import (
    ENCODER_GRAPH,
    ENCODER_TABLES,
    ENCODER_WEIGHTS,
    GOLDEN_TOLERANCE,
    HALF_GRAPH,
    HEAD_GRAPH,
    Golden,
)
from lsvcr.catalogue import Catalogue
from lsvcr.encoder import Encoder, EncoderShape
from lsvcr.errors import BundleError
from lsvcr.history import NEVER, HistoryBatch, IntArray, Timelines
from training.batches import to_tensors
from training.encoder import Recommender, now, unit

PARITY_TOLERANCE = {ENCODER_GRAPH: 1e-4, ENCODER_WEIGHTS: 1e-4, HALF_GRAPH: GOLDEN_TOLERANCE / 2}
"""Half precision leaves as much again to the GPU that runs it."""
TARGETS = 4
TOP = 10
DAY_MS = 86_400_000
CPU = torch.device("cpu")

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """All that a bundle computes from histories; everything lies within [-1, 1]."""

    video_preference_BD: FloatArray
    video_share_BI: FloatArray
    comment_preference_BTD: FloatArray
    comment_share_BTJ: FloatArray

    def difference(self, other: "Answers") -> float:
        """The largest difference of two numbers; NaN if there is one."""
        return max(
            (
                float(np.abs(getattr(self, field.name) - getattr(other, field.name)).max())
                for field in fields(self)
            ),
            key=lambda error: np.inf if np.isnan(error) else error,
        )


class BundleGraphs:
    """An encoder and the comment head of a bundle on one CPU thread.

    Args:
        encoder: A graph's file, or that of the weights.
        shape: Of the weights.
    """

    def __init__(
        self,
        folder: Path,
        tables: dict[str, FloatArray],
        encoder: str = ENCODER_GRAPH,
        shape: EncoderShape | None = None,
    ) -> None:
        self.encoder = encoder
        inputs = {name: tables[name] for name in ENCODER_TABLES}
        if shape is None:
            self._encode = partial(_run_graph, _open(folder / encoder), inputs)
        else:
            self._encode = partial(_run_loops, Encoder(shape, np.load(folder / encoder), inputs))
        self._head = _open(folder / HEAD_GRAPH)
        self._video_query_VD = tables["video_query_VD"]

    def answer(self, history: HistoryBatch, target_BT: NDArray[np.int32]) -> Answers:
        """Encode histories and read them with target videos (rows of the catalogue)."""
        return self.answer_vectors(history, self._video_query_VD[target_BT])

    def answer_vectors(self, history: HistoryBatch, target_BTD: FloatArray) -> Answers:
        """As `answer`, with the vectors of the target videos.

        Raises:
            BundleError: If a graph doesn't run on these inputs.
        """
        try:
            preference_BD, state_BJD, share_BI = self._encode(history)
            comment_preference_BTD, comment_share_BTJ = self._head.run(
                ["comment_preference", "comment_share"],
                {
                    "comment_state": state_BJD,
                    "comment_last": history.comment_last_BJ,
                    "target": target_BTD,
                },
            )
        except Exception as error:  # the runtime has a class of its own for each failure
            raise BundleError(f"the graphs do not run on a history: {error}") from error
        return Answers(preference_BD, share_BI, comment_preference_BTD, comment_share_BTJ)


def _run_graph(
    session: Any, tables: dict[str, FloatArray], history: HistoryBatch
) -> list[FloatArray]:
    """Preferences, comment states and shares."""
    outputs = ["video_preference", "comment_state", "video_share"]
    answers: list[FloatArray] = session.run(outputs, {**history.arrays(), **tables})
    return answers


def _run_loops(encoder: Encoder, history: HistoryBatch) -> list[FloatArray]:
    users, slots = history.video_BI.shape
    width = encoder.shape.width
    preference_BD = np.zeros((users, width), np.float32)
    share_BI = np.zeros((users, slots), np.float32)
    state_BJD = np.zeros((*history.comment_last_BJ.shape, width), np.float32)
    encoder.encode(
        history,
        np.arange(users),
        preference_BD=preference_BD,
        share_BI=share_BI,
        state_BJD=state_BJD,
    )
    return [preference_BD, state_BJD, share_BI]


@torch.no_grad()
def answer_by_model(
    recommender: Recommender,
    popular_comment_V: NDArray[np.int32],
    history: HistoryBatch,
    target_BT: NDArray[np.int32],
) -> Answers:
    """What the trained model answers, from ids and texts: no table, no graph."""
    rows, targets = target_BT.shape
    states = recommender.encode(
        to_tensors(history, CPU), torch.from_numpy(popular_comment_V[history.video_BI])
    )
    preference_B1D, share_B1I = recommender.sequence.video_preferences(states, now(rows, 1, CPU))
    query_BTD = recommender.items.video_queries(torch.from_numpy(target_BT))
    comment_preference_BTD, comment_share_BTJ = recommender.sequence.comment_preferences(
        states, query_BTD, now(rows, targets, CPU)
    )
    return Answers(
        unit(preference_B1D[:, 0]).numpy(),
        share_B1I[:, 0].numpy(),
        unit(comment_preference_BTD).numpy(),
        comment_share_BTJ.numpy(),
    )


@dataclass(frozen=True)
class SampleHistories:
    """Invented users of every kind, from nobody known to far more events than are read."""

    kinds: tuple[str, ...]
    timelines: Timelines
    target_UT: NDArray[np.int32]


def invent_histories(
    catalogue: Catalogue, *, max_history: int, comments_per_event: int, seed: int
) -> SampleHistories:
    """Draw histories from the catalogue; no real user's history leaves with a bundle."""
    rng = np.random.default_rng(seed)
    sizes = {
        "empty": (0, 0),
        "one_video": (1, 0),
        "one_comment": (0, 1),
        "one_of_each": (1, 1),
        "no_comments": (max_history, 0),
        "no_videos": (0, max_history),
        "longest": (max_history, max_history),
        "longer_than_longest": (4 * max_history, 4 * max_history),
        **{f"random_{n}": tuple(rng.integers(0, 2 * max_history, 2)) for n in range(1, 9)},
    }
    videos_U, comments_U = np.array(list(sizes.values())).T
    if catalogue.comment_count == 1:
        comments_U = np.zeros_like(comments_U)
    video_user_N = np.repeat(np.arange(len(sizes)), videos_U)
    comment_user_C, comment_C, comment_time_C = _invent_comments(rng, catalogue, comments_U)
    timelines = Timelines.build(
        users=len(sizes),
        video_user_N=video_user_N,
        video_N=rng.integers(1, catalogue.video_count, len(video_user_N)),
        video_time_N=rng.integers(0, 400 * DAY_MS, len(video_user_N)),
        comment_user_C=comment_user_C,
        comment_C=comment_C,
        comment_video_C=catalogue.comment_video_C[comment_C],
        comment_time_C=comment_time_C,
        comments_per_event=comments_per_event,
    )
    target_UT = rng.integers(1, catalogue.video_count, (len(sizes), TARGETS), np.int32)
    return SampleHistories(tuple(sizes), timelines, target_UT)


def measure_parity(
    recommender: Recommender,
    popular_comment_V: NDArray[np.int32],
    graphs: BundleGraphs,
    samples: SampleHistories,
) -> dict[str, float]:
    """Compare an encoder and tables with the trained model, each history alone and all at once.

    Returns:
        The largest difference by kind of history, and of the whole `batch`.

    Raises:
        BundleError: If one exceeds the encoder's `PARITY_TOLERANCE`.
    """
    tolerance = PARITY_TOLERANCE[graphs.encoder]
    everybody = np.arange(len(samples.kinds))
    batches = {
        **{kind: everybody[user : user + 1] for user, kind in enumerate(samples.kinds)},
        "batch": everybody,
    }
    max_history = recommender.config.max_history
    parity = {}
    for name, user_B in batches.items():
        cut_B = np.full(len(user_B), NEVER)
        history = samples.timelines.windows_before(user_B, cut_B, max_history)
        target_BT = samples.target_UT[user_B]
        expected = answer_by_model(recommender, popular_comment_V, history, target_BT)
        parity[name] = graphs.answer(history, target_BT).difference(expected)
        if not parity[name] <= tolerance:  # also refuses NaN
            raise BundleError(
                f"{graphs.encoder} differs from the model by {parity[name]:.2g} "
                f"(> {tolerance}) on history {name!r}"
            )
    return parity


def build_golden(
    recommender: Recommender,
    popular_comment_V: NDArray[np.int32],
    samples: SampleHistories,
    video_candidate_VD: FloatArray,
) -> Golden:
    """The sample histories with the trained model's answers."""
    history = samples.timelines.latest_windows(recommender.config.max_history)
    answers = answer_by_model(recommender, popular_comment_V, history, samples.target_UT)
    score_BN = answers.video_preference_BD @ video_candidate_VD[1:].T
    top_BK = np.argsort(-score_BN, axis=1, kind="stable")[:, :TOP] + 1
    return Golden(
        history=history,
        target_BT=samples.target_UT,
        video_preference_BD=answers.video_preference_BD,
        comment_preference_BTD=answers.comment_preference_BTD,
        top_video_BK=top_BK.astype(np.int32),
    )


def _invent_comments(
    rng: np.random.Generator, catalogue: Catalogue, comments_U: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """User, comment and time of comment events; half of them go on to the next comment."""
    user_C = np.repeat(np.arange(len(comments_U)), comments_U)
    comment_C = rng.integers(1, max(2, catalogue.comment_count), len(user_C))
    time_C = rng.integers(0, 400 * DAY_MS, len(user_C))
    next_C = np.minimum(comment_C + 1, catalogue.comment_count - 1)
    video_C = catalogue.comment_video_C
    goes_on_C = (video_C[next_C] == video_C[comment_C]) & (rng.random(len(user_C)) < 0.5)
    return (
        np.concatenate([user_C, user_C[goes_on_C]]),
        np.concatenate([comment_C, next_C[goes_on_C]]),
        np.concatenate([time_C, time_C[goes_on_C] + 60_000]),
    )


def _open(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a class of its own for each failure
        raise BundleError(f"{path.name} cannot be opened: {error}") from error
