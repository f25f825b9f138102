"""From a dataset to what training sees: rows, timelines, targets and who is held out.

Leave-one-out in time order: of each user, the last video event is test and the one before it
validation, and likewise of the videos commented under for the first time. Users and videos with
few events take no part (iterative k-core), yet every video stays in the catalogue, to be
recommended by its text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lsvcr.catalogue import Catalogue, build_catalogue, item_hashes
from lsvcr.errors import DataError
from lsvcr.history import Timelines
from training.config import RunConfig
from training.dataset_folder import Dataset

Split = Literal["train", "validation", "test"]
OWN_COMMENTS = 8
"""At most so many of a user's comments under one video count as positives."""


@dataclass(frozen=True)
class TextTables:
    """What is known of items beside their ids, by catalogue row; row 0 and empty texts are zero.

    Attributes:
        title_VE, comment_CE: float32.
        feature_CF: float32, what profiles compare (`training.comment_features`).
        category_V: int32 codes, 0 = unknown.
    """

    title_VE: NDArray[np.float32]
    comment_CE: NDArray[np.float32]
    feature_CF: NDArray[np.float32]
    category_V: NDArray[np.int32]


@dataclass(frozen=True)
class Prepared:
    """One data set, ready for training and evaluation.

    Shape suffixes: U users, N video events, M comment events (of `timelines`), V videos, C
    comments, P own comments.

    Attributes:
        user_ids: By user number.
        is_core_V: Videos that passed the k-core: candidates of training and of the full ranking.
        video_user_N, comment_user_M: User number of each event.
        video_held_out_N, comment_held_out_M: int8: 0 train, 1 validation, 2 test, -1 no target
            (a later event under a video that was commented before).
        own_comment_MP: int32 rows of the user's comments under the event's video, 0 = none.
        has_times: Whether timestamps are times, not only an order.
    """

    catalogue: Catalogue
    timelines: Timelines
    user_ids: list[str]
    is_core_V: NDArray[np.bool_]
    video_user_N: NDArray[np.int64]
    comment_user_M: NDArray[np.int64]
    video_held_out_N: NDArray[np.int8]
    comment_held_out_M: NDArray[np.int8]
    own_comment_MP: NDArray[np.int32]
    has_times: bool

    @property
    def is_trained_V(self) -> NDArray[np.bool_]:
        """Videos with a training event: only their ids mean something."""
        return self.training_events_V > 0

    @property
    def training_events_V(self) -> NDArray[np.int64]:
        """Training events of each video: popularity of all time."""
        trained_N = self.timelines.video_N[self.video_held_out_N == 0]
        return np.bincount(trained_N, minlength=self.catalogue.video_count)

    @property
    def is_held_out_comment_C(self) -> NDArray[np.bool_]:
        """Comments that a validation or test target asks for."""
        is_held_out_C = np.zeros(self.catalogue.comment_count, bool)
        is_held_out_C[self.own_comment_MP[self.comment_held_out_M > 0]] = True
        is_held_out_C[0] = False
        return is_held_out_C

    def video_targets(self, split: Split) -> NDArray[np.int64]:
        """Positions in `timelines` of a split's video targets."""
        return np.flatnonzero(self.video_held_out_N == _SPLITS.index(split))

    def comment_targets(self, split: Split) -> NDArray[np.int64]:
        """Positions in `timelines` of a split's comment targets."""
        return np.flatnonzero(self.comment_held_out_M == _SPLITS.index(split))

    def texts(self) -> tuple[list[str], list[str]]:
        """Titles by video row and texts by comment row, the empty padding rows included."""
        return list(self.catalogue.video_title), list(self.catalogue.comment_text)

    def fit_texts(self) -> list[str]:
        """Texts that statistics may be fitted on: all but the held-out targets' comments."""
        titles, comments = self.texts()
        kept = (
            text
            for text, is_out in zip(comments, self.is_held_out_comment_C, strict=True)
            if not is_out
        )
        return [text for text in (*titles, *kept) if text]


_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def prepare(dataset: Dataset, config: RunConfig) -> Prepared:
    """Number, filter, order and split a data set.

    Raises:
        DataError: If the k-core leaves nothing to learn from.
    """
    catalogue = _build_catalogue(dataset)
    videos = _numbered(dataset.video_events, "video_id", catalogue.video_index.rows)
    videos = videos.filter(pl.col("type").is_in(list(config.data.video_event_types)))
    videos = _keep_core(videos, config.data.min_events)
    if videos.is_empty():
        raise DataError(
            f"no user and video keep {config.data.min_events} events: "
            "lower data.min_events or bring more data"
        )
    user_ids = videos["user_id"].unique().sort().to_list()
    user_number = {user_id: number for number, user_id in enumerate(user_ids)}
    is_core_V = np.zeros(catalogue.video_count, bool)
    is_core_V[videos["row"].to_numpy()] = True

    comments = _numbered(dataset.comment_events, "comment_id", catalogue.comment_index.rows)
    comments = comments.filter(
        pl.col("type").is_in(list(config.data.comment_event_types))
        & pl.col("user_id").is_in(user_ids)
    )
    comment_C = comments["row"].to_numpy()
    is_core_C = is_core_V[catalogue.comment_video_C[comment_C]]
    comments, comment_C = comments.filter(pl.Series(is_core_C)), comment_C[is_core_C]
    comment_user_C = _user_numbers(comments, user_number)
    timelines = Timelines.build(
        users=len(user_ids),
        video_user_N=_user_numbers(videos, user_number),
        video_N=videos["row"].to_numpy(),
        video_time_N=videos["timestamp"].to_numpy(),
        comment_user_C=comment_user_C,
        comment_C=comment_C,
        comment_video_C=catalogue.comment_video_C[comment_C],
        comment_time_C=comments["timestamp"].to_numpy(),
        comments_per_event=config.model.comments_per_event,
    )
    video_user_N = _owners(timelines.video_start_U1)
    comment_user_M = _owners(timelines.comment_start_U1)
    is_first_M = _is_first_on_video(timelines, comment_user_M)
    return Prepared(
        catalogue=catalogue,
        timelines=timelines,
        user_ids=user_ids,
        is_core_V=is_core_V,
        video_user_N=video_user_N,
        comment_user_M=comment_user_M,
        video_held_out_N=_hold_out(video_user_N, np.ones(len(video_user_N), bool)),
        comment_held_out_M=_hold_out_in_order(
            comment_user_M, timelines.comment_first_M, is_first_M
        ),
        own_comment_MP=_own_comments(
            timelines, comment_user_M, comment_user_C, comment_C, catalogue
        ),
        has_times=dataset.time_unit == "ms",
    )


def _build_catalogue(dataset: Dataset) -> Catalogue:
    videos = dataset.videos
    comments = dataset.comments
    return build_catalogue(
        video_ids=videos["video_id"].to_list(),
        titles=videos["title"].to_list(),
        categories=videos["category"].to_list(),
        authors=videos["author_id"].to_list(),
        published_ms=videos["published_at"].to_list(),
        comment_ids=comments["comment_id"].to_list(),
        comment_texts=comments["text"].to_list(),
        comment_video_ids=comments["video_id"].to_list(),
        likes=comments["likes"].fill_null(0).to_list(),
    )


def _numbered(
    events: pl.DataFrame,
    column: str,
    rows: Callable[[NDArray[np.uint64]], NDArray[np.int32]],
) -> pl.DataFrame:
    """Add the catalogue row of each event's item, in a fixed order of events."""
    row_N = rows(item_hashes(events[column].to_list()))
    return events.with_columns(pl.Series("row", row_N)).sort("user_id", "timestamp", "row")


def _keep_core(events: pl.DataFrame, min_events: int) -> pl.DataFrame:
    """Drop users and videos with fewer than `min_events` distinct partners until none is left."""
    pairs = events.select("user_id", "row").unique()
    while True:
        kept = pairs.filter(
            (pl.len().over("user_id") >= min_events) & (pl.len().over("row") >= min_events)
        )
        if len(kept) == len(pairs):
            break
        pairs = kept
    return events.join(pairs, on=["user_id", "row"], how="semi", maintain_order="left")


def _user_numbers(events: pl.DataFrame, number: dict[str, int]) -> NDArray[np.int64]:
    return np.fromiter((number[user] for user in events["user_id"]), np.int64, len(events))


def _owners(start_U1: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(start_U1) - 1), np.diff(start_U1))


def _is_first_on_video(timelines: Timelines, user_M: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a comment event is its user's first under its video."""
    order_M = np.lexsort((timelines.comment_first_M, timelines.comment_video_M, user_M))
    user, video = user_M[order_M], timelines.comment_video_M[order_M]
    is_first = np.ones(len(user), bool)
    is_first[1:] = (user[1:] != user[:-1]) | (video[1:] != video[:-1])
    is_first_M = np.empty(len(user), bool)
    is_first_M[order_M] = is_first
    return is_first_M


def _hold_out(user_N: NDArray[np.int64], is_target_N: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Label targets sorted by user and time: the last 2 (test), the one before 1, others 0.

    A user's only target stays in training: nothing would be known before it.
    """
    held_out_N = np.where(is_target_N, 0, -1).astype(np.int8)
    position_T = np.flatnonzero(is_target_N)
    user_T = user_N[position_T]
    from_end_T = np.searchsorted(user_T, user_T, "right") - np.arange(len(user_T))
    from_start_T = np.arange(len(user_T)) - np.searchsorted(user_T, user_T)
    held_out_N[position_T[(from_end_T == 1) & (from_start_T >= 1)]] = 2
    held_out_N[position_T[(from_end_T == 2) & (from_start_T >= 1)]] = 1
    return held_out_N


def _hold_out_in_order(
    user_M: NDArray[np.int64], first_M: NDArray[np.int32], is_target_M: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """As `_hold_out` for events that are sorted by their last instant, not their first."""
    order_M = np.lexsort((first_M, user_M))
    held_out_M = np.empty(len(user_M), np.int8)
    held_out_M[order_M] = _hold_out(user_M[order_M], is_target_M[order_M])
    return held_out_M


def _own_comments(
    timelines: Timelines,
    user_M: NDArray[np.int64],
    user_C: NDArray[np.int64],
    comment_C: NDArray[np.int64],
    catalogue: Catalogue,
) -> NDArray[np.int32]:
    """The comments each event's user ever touched under its video (P = `OWN_COMMENTS`)."""
    own = np.unique(np.stack([user_C, comment_C], 1), axis=0)
    videos = catalogue.video_count
    own_key = own[:, 0] * videos + catalogue.comment_video_C[own[:, 1]]
    order = np.argsort(own_key, kind="stable")
    own_key, own_comment = own_key[order], own[order, 1]
    key_M = user_M * videos + timelines.comment_video_M
    first_M = np.searchsorted(own_key, key_M)
    last_M = np.searchsorted(own_key, key_M, "right")
    position_MP = first_M[:, None] + np.arange(OWN_COMMENTS)
    is_own_MP = position_MP < last_M[:, None]
    own_comment_MP = np.zeros(position_MP.shape, np.int32)
    own_comment_MP[is_own_MP] = own_comment[position_MP[is_own_MP]]
    return own_comment_MP
