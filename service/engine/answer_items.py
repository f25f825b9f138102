"""Turns ranked catalogue rows into the items of an answer."""

import msgspec
import numpy as np

from lsvcr.catalogue import Catalogue
from service.engine.popularity import PopularItems
from service.engine.queries import RankedComment, RankedVideo, Reason
from service.engine.scoring import Ranked, Rows

Because = tuple[Reason, ...] | None
"""None where no explanation is asked for."""

MAX_NAMED = 16_384


class VideoNames:
    """What is told of a video whoever it is for: id, title and decile, by catalogue row.

    Some videos are shown much more often than others, and to decode their texts again each time
    cost as much as to rank them. What was read is kept, and forgotten as a whole at `MAX_NAMED`.

    Args:
        popular: All videos by training events; of them a decile is a tenth.
    """

    def __init__(self, catalogue: Catalogue, popular: PopularItems) -> None:
        self._catalogue = catalogue
        self._popular = popular
        self._known: dict[int, tuple[str, str, int]] = {}

    def of(self, row_K: Rows) -> list[tuple[str, str, int]]:
        """Id, title and decile of each row."""
        rows = row_K.tolist()
        try:
            return [self._known[row] for row in rows]
        except KeyError:
            self._read(rows)
            return [self._known[row] for row in rows]

    def _read(self, rows: list[int]) -> None:
        missing = [row for row in rows if row not in self._known]
        if len(self._known) + len(missing) > MAX_NAMED:
            self._known.clear()
            missing = rows
        row_N = np.array(missing, np.int64)
        named = zip(
            self._catalogue.video_id.texts(row_N),
            self._catalogue.video_title.texts(row_N),
            self._popular.deciles(row_N).tolist(),
            strict=True,
        )
        self._known.update(zip(missing, named, strict=True))


class VideoItems(msgspec.Struct, frozen=True, eq=False):
    """Videos as an answer tells them, and what it tells of them elsewhere."""

    items: tuple[RankedVideo, ...] = ()
    video_ids: tuple[str, ...] = ()
    deciles: tuple[int, ...] = ()


def video_items(ranked: Ranked, names: VideoNames, because: Because) -> VideoItems:
    """Name videos; with `because`, also explain them."""
    if not len(ranked):
        return VideoItems()
    video_ids, titles, deciles = zip(*names.of(ranked.row_K), strict=True)
    told = zip(
        video_ids, ranked.score_K.tolist(), titles, _parts_of_each(ranked, because), strict=True
    )
    items = [
        RankedVideo(video_id, rank, score, title, part, because)
        for rank, (video_id, score, title, part) in enumerate(told, start=1)
    ]
    return VideoItems(tuple(items), video_ids, deciles)


def comment_items(
    ranked: Ranked, catalogue: Catalogue, because: Because
) -> tuple[RankedComment, ...]:
    """Name comments; with `because`, also explain them."""
    told = zip(
        catalogue.comment_id.texts(ranked.row_K),
        catalogue.video_id.texts(catalogue.comment_video_C[ranked.row_K]),
        ranked.score_K.tolist(),
        catalogue.comment_text.texts(ranked.row_K),
        _parts_of_each(ranked, because),
        strict=True,
    )
    return tuple(
        [
            RankedComment(comment_id, video_id, rank, score, text, part, because)
            for rank, (comment_id, video_id, score, text, part) in enumerate(told, start=1)
        ]
    )


def _parts_of_each(ranked: Ranked, because: Because) -> list[dict[str, float] | None]:
    """Each item's parts of the score, where an explanation is asked for."""
    if because is None:
        return [None] * len(ranked)
    return [
        {name: float(values[place]) for name, values in ranked.parts.items()}
        for place in range(len(ranked))
    ]
