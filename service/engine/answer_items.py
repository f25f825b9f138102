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
    parts = _parts_of_each(ranked, because)
    return tuple(
        RankedVideo(*item, because)
        for item in zip(
            catalogue.video_id.texts(ranked.row_K),
            ranked.score_K.tolist(),
            catalogue.video_title.texts(ranked.row_K),
            popularity_decile_V[ranked.row_K].tolist(),
            parts,
            strict=True,
        )
    )


def comment_items(
    ranked: Ranked, catalogue: Catalogue, because: Because
) -> tuple[RankedComment, ...]:
    """Name comments; with `because`, also explain them."""
    parts = _parts_of_each(ranked, because)
    return tuple(
        RankedComment(*item, because)
        for item in zip(
            catalogue.comment_id.texts(ranked.row_K),
            catalogue.video_id.texts(catalogue.comment_video_C[ranked.row_K]),
            ranked.score_K.tolist(),
            catalogue.comment_text.texts(ranked.row_K),
            parts,
            strict=True,
        )
    )


def _parts_of_each(ranked: Ranked, because: Because) -> list[dict[str, float] | None]:
    """Each item's parts of the score, where an explanation is asked for."""
    if because is None:
        return [None] * len(ranked)
    return [
        {name: float(values[place]) for name, values in ranked.parts.items()}
        for place in range(len(ranked))
    ]
