"""Turns ranked catalogue rows into the items of an answer."""

import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import Catalogue
from service.engine.queries import RankedComment, RankedVideo, Reason
from service.engine.scoring import Ranked

Because = tuple[Reason, ...] | None
"""None where no explanation is asked for."""


def video_items(
    ranked: Ranked, catalogue: Catalogue, popularity_decile_V: NDArray[np.int8], because: Because
) -> tuple[RankedVideo, ...]:
    """Name videos; with `because`, also explain them."""
    return tuple(
        RankedVideo(
            video_id=catalogue.video_id[row],
            score=score,
            title=catalogue.video_title[row],
            popularity_decile=int(popularity_decile_V[row]),
            parts=None if because is None else _parts_at(ranked, place),
            because=because,
        )
        for place, (row, score) in enumerate(
            zip(ranked.row_K.tolist(), ranked.score_K.tolist(), strict=True)
        )
    )


def comment_items(
    ranked: Ranked, catalogue: Catalogue, because: Because
) -> tuple[RankedComment, ...]:
    """Name comments; with `because`, also explain them."""
    return tuple(
        RankedComment(
            comment_id=catalogue.comment_id[row],
            video_id=catalogue.video_id[int(catalogue.comment_video_C[row])],
            score=score,
            text=catalogue.comment_text[row],
            parts=None if because is None else _parts_at(ranked, place),
            because=because,
        )
        for place, (row, score) in enumerate(
            zip(ranked.row_K.tolist(), ranked.score_K.tolist(), strict=True)
        )
    )


def _parts_at(ranked: Ranked, place: int) -> dict[str, float]:
    return {name: float(values[place]) for name, values in ranked.parts.items()}
