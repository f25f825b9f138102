"""From a dataset to what training sees: rows, timelines, targets and who is held out.

Leave-one-out in time order, or a cut in time for all users alike (`training.hold_out`); of comment
events, only the first under a video is a target. Users and videos with few events take no part
(iterative k-core), yet every video stays in the catalogue, to be recommended by its text. Some
videos may be held out whole, to measure just that ("cold").
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lsvcr.catalogue import Catalogue, build_catalogue, item_hashes
from lsvcr.errors import DataError
from lsvcr.history import Timelines
from training.config import RunConfig
from training.dataset_folder import Dataset
from training.hold_out import LATER, HoldOut, LeaveOneOut, TimeCut

Split = Literal["train", "validation", "test", "cold"]
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
        is_cold_V: Videos that training must not know (`data.cold_videos`), neither by events nor
            by texts.
        video_user_N, comment_user_M: User number of each event.
        video_held_out_N, comment_held_out_M: int8: 0 train, 1 validation, 2 test, 3 cold, -1 no
            target (a later event under a video that was commented before), 4 behind a cut in
            time, but no target.
        own_comment_MP: int32 rows of the user's comments under the event's video, 0 = none.
        has_times: Whether timestamps are times, not only an order.
        cold: The same users with their events on cold videos, too, of which each user's last is a
            target of the split `cold`; None without cold videos. Of evaluation only.
    """

    catalogue: Catalogue
    timelines: Timelines
    user_ids: list[str]
    is_core_V: NDArray[np.bool_]
    is_cold_V: NDArray[np.bool_]
    video_user_N: NDArray[np.int64]
    comment_user_M: NDArray[np.int64]
    video_held_out_N: NDArray[np.int8]
    comment_held_out_M: NDArray[np.int8]
    own_comment_MP: NDArray[np.int32]
    has_times: bool
    cold: "Prepared | None" = None

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
    def is_counted_N(self) -> NDArray[np.bool_]:
        """Video events that popularity counts from their hour on: no target asks for them."""
        return np.isin(self.video_held_out_N, (0, LATER))

    @property
    def is_held_out_comment_C(self) -> NDArray[np.bool_]:
        """Comments of held-out events, all behind a cut in time, and all under cold videos."""
        is_held_out_C = self.is_cold_V[self.catalogue.comment_video_C]
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
        """Texts that statistics may be fitted on: without held-out comments and cold videos."""
        titles = zip(self.catalogue.video_title, self.is_cold_V, strict=True)
        return [text for text, is_cold in titles if text and not is_cold] + self.fit_comments()

    def fit_comments(self) -> list[str]:
        """The comments of `fit_texts`."""
        comments = zip(self.catalogue.comment_text, self.is_held_out_comment_C, strict=True)
        return [text for text, is_out in comments if text and not is_out]


_SPLITS: tuple[Split, ...] = ("train", "validation", "test", "cold")


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
    comments = comments.with_columns(
        pl.Series("video_row", catalogue.comment_video_C[comments["row"].to_numpy()])
    )
    comments = comments.filter(pl.Series(is_core_V[comments["video_row"].to_numpy()]))
    is_cold_V = _draw_cold(is_core_V, config)
    events = _Events(
        catalogue=catalogue,
        user_ids=user_ids,
        videos=videos.with_columns(_user_numbers(videos, user_number)),
        comments=comments.with_columns(_user_numbers(comments, user_number)),
        comments_per_event=config.model.comments_per_event,
        has_times=dataset.time_unit == "ms",
        hold_out=_way_to_hold_out(config, videos["timestamp"], dataset.time_unit == "ms"),
    )
    everything = events.prepare(is_core_V, is_cold_V)
    if not is_cold_V.any():
        return everything
    warm = events.without(is_cold_V).prepare(is_core_V & ~is_cold_V, is_cold_V)
    if not len(warm.video_targets("train")):
        raise DataError(
            f"data.cold_videos = {config.data.cold_videos} leaves no event to train on: lower it"
        )
    return replace(warm, cold=_hold_out_cold(everything, warm))


@dataclass(frozen=True)
class _Events:
    """Filtered events, numbered: columns `user`, `row` and `timestamp`, comments' `video_row`."""

    catalogue: Catalogue
    user_ids: list[str]
    videos: pl.DataFrame
    comments: pl.DataFrame
    comments_per_event: int
    has_times: bool
    hold_out: HoldOut

    def without(self, is_out_V: NDArray[np.bool_]) -> "_Events":
        """All but the events on some videos and on comments under them."""
        return replace(
            self,
            videos=self.videos.filter(pl.Series(~is_out_V[self.videos["row"].to_numpy()])),
            comments=self.comments.filter(
                pl.Series(~is_out_V[self.comments["video_row"].to_numpy()])
            ),
        )

    def prepare(self, is_core_V: NDArray[np.bool_], is_cold_V: NDArray[np.bool_]) -> Prepared:
        """Order the events, and hold out every user's last ones."""
        comment_user_C, comment_C, comment_video_C, comment_time_C = (
            self.comments[column].to_numpy() for column in ("user", "row", "video_row", "timestamp")
        )
        timelines = Timelines.build(
            users=len(self.user_ids),
            video_user_N=self.videos["user"].to_numpy(),
            video_N=self.videos["row"].to_numpy(),
            video_time_N=self.videos["timestamp"].to_numpy(),
            comment_user_C=comment_user_C,
            comment_C=comment_C,
            comment_video_C=comment_video_C,
            comment_time_C=comment_time_C,
            comments_per_event=self.comments_per_event,
        )
        video_user_N = _owners(timelines.video_start_U1)
        comment_user_M = _owners(timelines.comment_start_U1)
        is_first_M = _is_first_on_video(timelines, comment_user_M)
        return Prepared(
            catalogue=self.catalogue,
            timelines=timelines,
            user_ids=self.user_ids,
            is_core_V=is_core_V,
            is_cold_V=is_cold_V,
            video_user_N=video_user_N,
            comment_user_M=comment_user_M,
            video_held_out_N=self.hold_out(
                video_user_N,
                timelines.video_order_N,
                timelines.video_time_N,
                np.ones(len(video_user_N), bool),
            ),
            comment_held_out_M=self.hold_out(
                comment_user_M, timelines.comment_first_M, timelines.comment_time_M, is_first_M
            ),
            own_comment_MP=_own_comments(
                timelines, comment_user_M, comment_user_C, comment_C, self.catalogue
            ),
            has_times=self.has_times,
        )


def _way_to_hold_out(config: RunConfig, time_N: pl.Series, has_times: bool) -> HoldOut:
    if config.data.split == "last":
        return LeaveOneOut()
    if not has_times:
        raise DataError("data.split = 'time': these timestamps are an order, no times; use 'last'")
    cuts_ms = np.quantile(time_N.to_numpy(), config.data.time_cuts)
    return TimeCut(*(int(cut_ms) for cut_ms in cuts_ms))


def _draw_cold(is_core_V: NDArray[np.bool_], config: RunConfig) -> NDArray[np.bool_]:
    """A random share of the core videos, the same for every run of a seed."""
    core_N = np.flatnonzero(is_core_V)
    generator = np.random.default_rng([config.evaluate.seed, len(core_N)])
    count = round(config.data.cold_videos * len(core_N))
    is_cold_V = np.zeros(len(is_core_V), bool)
    is_cold_V[generator.choice(core_N, count, replace=False)] = True
    return is_cold_V


def _hold_out_cold(everything: Prepared, warm: Prepared) -> Prepared:
    """Ask for each user's last event on a cold video; the other videos' labels stay."""
    timelines, is_cold_V = everything.timelines, everything.is_cold_V
    is_first_M = _is_first_on_video(timelines, everything.comment_user_M)
    is_cold_N = is_cold_V[timelines.video_N]
    is_cold_M = is_cold_V[timelines.comment_video_M]
    knows_before_N = (
        timelines.video_order_N
        > timelines.video_order_N[timelines.video_start_U1[everything.video_user_N]]
    )
    video_held_out_N = _labels_of(
        _keys(everything.video_user_N, timelines.video_N, timelines.video_time_N),
        _keys(warm.video_user_N, warm.timelines.video_N, warm.timelines.video_time_N),
        warm.video_held_out_N,
    )
    is_target_N = _is_last(everything.video_user_N, timelines.video_order_N, is_cold_N)
    video_held_out_N[is_target_N & knows_before_N] = 3
    comment_held_out_M = _labels_of(
        _keys(everything.comment_user_M, timelines.comment_video_M, timelines.comment_time_M),
        _keys(warm.comment_user_M, warm.timelines.comment_video_M, warm.timelines.comment_time_M),
        warm.comment_held_out_M,
    )
    is_target_M = _is_last(
        everything.comment_user_M, timelines.comment_first_M, is_cold_M & is_first_M
    )
    comment_held_out_M[is_target_M] = 3
    return replace(
        everything, video_held_out_N=video_held_out_N, comment_held_out_M=comment_held_out_M
    )


def _keys(
    user_N: NDArray[np.int64], video_N: NDArray[np.int32], time_N: NDArray[np.int64]
) -> pl.DataFrame:
    return pl.DataFrame({"user": user_N, "video": video_N, "time": time_N})


def _labels_of(
    event_N: pl.DataFrame, known_S: pl.DataFrame, label_S: NDArray[np.int8]
) -> NDArray[np.int8]:
    """Labels of known events; -1 for others.

    Positions do not tell: an event repeated around cold ones counts once without them.
    """
    known = known_S.with_columns(label=pl.Series(label_S))
    joined = event_N.join(known, on=event_N.columns, how="left", maintain_order="left")
    return joined["label"].fill_null(-1).to_numpy().copy()


def _is_last(
    user_N: NDArray[np.int64], order_N: NDArray[np.int32], is_wanted_N: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether an event is the latest wanted one of its user."""
    last_U = np.full(int(user_N.max(initial=-1)) + 1, -1)
    np.maximum.at(last_U, user_N[is_wanted_N], order_N[is_wanted_N])
    return is_wanted_N & (order_N == last_U[user_N])


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


def _user_numbers(events: pl.DataFrame, number: dict[str, int]) -> pl.Series:
    numbers = [number[user] for user in events["user_id"]]
    return pl.Series("user", numbers, dtype=pl.Int64)


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
