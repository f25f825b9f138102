"""The demo world as the examples need it: who did what, under which titles."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lsvcr_client.answers import HistoryComment, HistoryVideo
from lsvcr_client.requests import Event

MIN_SHOWN_VIDEOS = 20
MIN_SHOWN_COMMENTS = 10


@dataclass(frozen=True)
class DemoData:
    """The tables of a dataset folder, and lookups into them.

    Attributes:
        title, category: By video id.
        text, comment_video: By comment id.
        events: By user id, oldest first.
    """

    title: dict[str, str]
    category: dict[str, str]
    text: dict[str, str]
    comment_video: dict[str, str]
    events: dict[str, list[Event]]

    def choose_user(self) -> str:
        """The first user with enough of a history on both sides to look at."""
        for user_id, events in sorted(self.events.items()):
            comments = sum(event.comment_id is not None for event in events)
            if comments >= MIN_SHOWN_COMMENTS and len(events) - comments >= MIN_SHOWN_VIDEOS:
                return user_id
        return min(self.events)

    def least_watched_category(self, user_id: str) -> str:
        """The category that a user has the fewest events on; the first by name of several."""
        counts = dict.fromkeys(sorted(set(self.category.values())), 0)
        for event in self.events[user_id]:
            counts[self.category[self.video_of(event)]] += 1
        return min(counts, key=lambda category: counts[category])

    def popular_videos(self, category: str, count: int) -> list[str]:
        """The videos of a category with the most events."""
        counts = dict.fromkeys((v for v in sorted(self.title) if self.category[v] == category), 0)
        for events in self.events.values():
            for event in events:
                if event.video_id in counts:
                    counts[event.video_id] += 1
        return sorted(counts, key=lambda video_id: -counts[video_id])[:count]

    def comments_under(self, video_id: str) -> list[str]:
        """The ids of a video's comments."""
        return [comment for comment, video in self.comment_video.items() if video == video_id]

    def video_of(self, event: Event | HistoryVideo | HistoryComment) -> str:
        """The video of an event, or the one its comment stands under."""
        if comment_id := getattr(event, "comment_id", None):
            return self.comment_video[comment_id]
        return str(event.video_id)


def load_demo_data(folder: Path) -> DemoData:
    """Read the tables that `training data demo` wrote."""
    videos = pl.read_parquet(folder / "videos.parquet")
    comments = pl.read_parquet(folder / "comments.parquet")
    events: dict[str, list[Event]] = {}
    for table, item in (("video_events", "video_id"), ("comment_events", "comment_id")):
        rows = pl.read_parquet(folder / f"{table}.parquet")
        columns = ("user_id", item, "timestamp", "type")
        for number, row in enumerate(rows.select(columns).iter_rows(named=True)):
            events.setdefault(row["user_id"], []).append(Event(event_id=f"{table}-{number}", **row))
    for user_events in events.values():
        user_events.sort(key=lambda event: event.timestamp)
    return DemoData(
        title=dict(videos.select("video_id", "title").iter_rows()),
        category=dict(videos.select("video_id", "category").iter_rows()),
        text=dict(comments.select("comment_id", "text").iter_rows()),
        comment_video=dict(comments.select("comment_id", "video_id").iter_rows()),
        events=events,
    )
