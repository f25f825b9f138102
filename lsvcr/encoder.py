"""The encoder on a CPU, as loops of our own (`_encoder.c`): no padding, and no small steps.

Shape suffixes: W all weights, V video rows, C comment rows, B users, R some of them, I and J slots
of the video and comment side, D model width.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lsvcr import loops
from lsvcr.history import HistoryBatch

PANEL = 16
"""Outputs of a product whose weights stand together in `encoder_weights.npy`."""
MOST_LAYERS = 16

FloatArray = NDArray[np.float32]


class EncoderShape(BaseModel):
    """What an encoder is made of (docs/model.md, Encoder), and so the order of its weights.

    Attributes:
        width: D.
        history: Events a side, at most.
        layers: Of either side, before they mix.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    width: int = Field(ge=1, le=65_536)
    history: int = Field(ge=1, le=65_536)
    heads: int = Field(ge=1)
    feedforward: int = Field(ge=1, le=65_536)
    layers: int = Field(ge=1, le=MOST_LAYERS)
    norm: Literal["pre", "post"]
    encoder_kv: Literal["previous", "input"]
    mix: bool
    pool: Literal["additive", "last"]

    @property
    def weights(self) -> int:
        """How many numbers they are."""
        return loops.count_weights(*self.numbers)

    @property
    def numbers(self) -> tuple[int, ...]:
        """As the loops take it."""
        return (
            self.width,
            self.heads,
            self.feedforward,
            self.layers,
            self.history,
            int(self.norm == "post"),
            int(self.encoder_kv == "input"),
            int(self.mix),
            int(self.pool == "additive"),
        )


class Encoder:
    """One encoder with its weights and tables; may be used from several threads.

    Args:
        weight_W: As `export.encoder_weights` lays them out.
        tables: `video_input_VD`, `comment_video_input_VD` and `comment_input_CD`.
        lanes: Numbers computed with at a time, at most: as many as the processor can.
    """

    def __init__(
        self,
        shape: EncoderShape,
        weight_W: FloatArray,
        tables: Mapping[str, FloatArray],
        *,
        lanes: int | None = None,
    ) -> None:
        self.shape = shape
        self.lanes = min(lanes or loops.count_lanes(), loops.count_lanes())
        video_VD, comment_CD = tables["video_input_VD"], tables["comment_input_CD"]
        self._given = (
            *shape.numbers,
            self.lanes,
            weight_W,
            len(video_VD),
            video_VD,
            tables["comment_video_input_VD"],
            len(comment_CD),
            comment_CD,
        )

    def encode(
        self,
        history: HistoryBatch,
        row_R: NDArray[np.int64],
        *,
        preference_BD: FloatArray,
        share_BI: FloatArray,
        state_BJD: FloatArray,
    ) -> None:
        """Encode some users of a batch; only their rows of the outputs are written to.

        Args:
            row_R: Which users.
            preference_BD: Becomes unit vectors in the space of candidate videos.
            share_BI: Becomes their attention over the video slots; zeros before.
            state_BJD: Becomes what the comment head reads; without slots that isn't computed.

        Raises:
            IndexError: If an input names a row that a table lacks, or is no history.
        """
        users, video_slots = history.video_BI.shape
        inputs = map(np.ascontiguousarray, history.arrays().values())
        loops.encode(  # type: ignore[call-arg] # the first ones are numbers and arrays in turn
            *self._given,  # type: ignore[arg-type]
            users,
            video_slots,
            *history.comment_BJK.shape[1:],
            *inputs,
            row_R,
            state_BJD.shape[1],
            preference_BD,
            share_BI,
            state_BJD,
        )
