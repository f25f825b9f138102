"""Which comments a history shows to the language model, and which to the encoder.

In stage 1 both describe the same user. If they always saw the same comments they could agree on
the words alone, so now and then each event shows different ones to either.

Shape suffixes: B rows, I and J events of the video and comment side, K comments of a comment
event, P own comments of a target, N candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsvcr.catalogue import Catalogue

DIVERSE_ROWS = 0.5
"""Share of histories, of each side, in which events may show different comments."""
DIVERSE_EVENTS = 0.3
"""Share of the events in such a history that do."""
OTHER_COMMENTS = 10
"""An event's comments are mixed with others among so many most popular of its video."""

Rows = NDArray[np.int32]


@dataclass(frozen=True)
class ShownComments:
    """Catalogue rows of the comments that one reader sees; 0 = none.

    Attributes:
        popular_BI: One popular comment of each video event.
        comment_BJK: The comments of each comment event.
    """

    popular_BI: Rows
    comment_BJK: Rows


def show_comments(
    catalogue: Catalogue,
    video_BI: Rows,
    comment_video_BJ: Rows,
    comment_BJK: Rows,
    hidden_BP: Rows,
    *,
    popular_comments: int,
    random: np.random.Generator,
) -> tuple[ShownComments, ShownComments]:
    """Draw what the language model and what the encoder sees.

    Args:
        catalogue: Whose comments may be drawn.
        video_BI: Videos of video events; 0 = padding.
        comment_video_BJ, comment_BJK: Videos of comment events and the user's comments there.
        hidden_BP: Comments that would give the answer away: never drawn.
        popular_comments: A video event shows one of its video's so many most popular.
        random: Every draw comes from here.
    """
    prompt_popular_BI, encoder_popular_BI = _popular(
        catalogue, video_BI, hidden_BP, popular_comments, random
    )
    prompt_BJK, encoder_BJK = _mixed(catalogue, comment_video_BJ, comment_BJK, hidden_BP, random)
    return (
        ShownComments(prompt_popular_BI, prompt_BJK),
        ShownComments(encoder_popular_BI, encoder_BJK),
    )


def _popular(
    catalogue: Catalogue,
    video_BI: Rows,
    hidden_BP: Rows,
    most: int,
    random: np.random.Generator,
) -> tuple[Rows, Rows]:
    """One popular comment for both readers; in diverse events two, distinct if there are two."""
    first_BI, count_BI = _slices(catalogue, video_BI)
    count_BI = np.minimum(count_BI, most)
    one_BI = random.integers(0, np.maximum(count_BI, 1))
    step_BI = random.integers(1, np.maximum(count_BI, 2))
    other_BI = (one_BI + step_BI) % np.maximum(count_BI, 1)
    other_BI = np.where(_is_diverse(video_BI.shape, random), other_BI, one_BI)

    def rows(draw_BI: NDArray[np.int64]) -> Rows:
        row_BI = np.where(count_BI > 0, first_BI + draw_BI, 0)
        return np.where(_is_in(row_BI, hidden_BP), 0, row_BI).astype(np.int32)

    return rows(one_BI), rows(other_BI)


def _mixed(
    catalogue: Catalogue,
    video_BJ: Rows,
    own_BJK: Rows,
    hidden_BP: Rows,
    random: np.random.Generator,
) -> tuple[Rows, Rows]:
    """The user's comments for both; in diverse events as many others, shuffled and dealt out."""
    wanted_BJ1 = (own_BJK > 0).sum(2, keepdims=True)
    other_BJK = _others(catalogue, video_BJ, own_BJK, hidden_BP, random)
    other_BJK *= np.arange(own_BJK.shape[2]) < wanted_BJ1
    both_BJN = np.concatenate([own_BJK, other_BJK], 2)
    key_BJN = np.where(both_BJN > 0, random.random(both_BJN.shape), 2.0)
    shuffled_BJN = np.take_along_axis(both_BJN, key_BJN.argsort(2), 2)
    is_diverse_BJ1 = _is_diverse(video_BJ.shape, random)[..., None]
    prompt_BJK, encoder_BJK = (
        np.where(is_diverse_BJ1, shuffled_BJN[..., start::2], own_BJK) for start in (0, 1)
    )
    return prompt_BJK, encoder_BJK


def _others(
    catalogue: Catalogue,
    video_BJ: Rows,
    own_BJK: Rows,
    hidden_BP: Rows,
    random: np.random.Generator,
) -> Rows:
    """As many popular comments of the video as the event has slots, none of the user's own.

    Where a video has too few of them, random comments of the whole catalogue.
    """
    first_BJ, count_BJ = _slices(catalogue, video_BJ)
    offset_N = np.arange(max(OTHER_COMMENTS, own_BJK.shape[2]))
    row_BJN = (first_BJ[..., None] + offset_N).astype(np.int32)
    is_free_BJN = (offset_N < count_BJ[..., None]) & ~_is_in(row_BJN, hidden_BP)
    is_free_BJN &= ~(row_BJN[..., None] == own_BJK[:, :, None, :]).any(3)
    key_BJN = np.where(is_free_BJN, random.random(row_BJN.shape), 2.0)
    chosen_BJK = key_BJN.argsort(2)[..., : own_BJK.shape[2]]
    anywhere_BJK = random.integers(
        1, max(2, catalogue.comment_count), chosen_BJK.shape, dtype=np.int32
    )
    anywhere_BJK = np.where(_is_in(anywhere_BJK, hidden_BP), 0, anywhere_BJK)
    return np.where(
        np.take_along_axis(is_free_BJN, chosen_BJK, 2),
        np.take_along_axis(row_BJN, chosen_BJK, 2),
        anywhere_BJK,
    )


def _slices(catalogue: Catalogue, video: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First comment row and number of comments of each video."""
    first = catalogue.comment_start_V1[video]
    return first, catalogue.comment_start_V1[video + 1] - first


def _is_diverse(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.bool_]:
    """Which events of (rows, events) show different comments."""
    is_diverse_B1 = random.random((shape[0], 1)) < DIVERSE_ROWS
    return is_diverse_B1 & (random.random(shape) < DIVERSE_EVENTS)


def _is_in(row: NDArray[np.integer], hidden_BP: Rows) -> NDArray[np.bool_]:
    """Whether each of (B, …) rows is among its row's hidden ones."""
    hidden = hidden_BP.reshape(len(hidden_BP), *(1,) * (row.ndim - 1), -1)
    return (row[..., None] == hidden).any(-1) & (row > 0)
