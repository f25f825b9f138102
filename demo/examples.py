"""What one user is recommended, before and after new events of another taste."""

import time
from collections import Counter
from collections.abc import Sequence

from demo.demo_data import DemoData
from demo.errors import DemoError
from lsvcr_client import Client
from lsvcr_client.answers import (
    CommentsAnswer,
    HistoryComment,
    HistoryVideo,
    Recommendation,
    VideosAnswer,
)
from lsvcr_client.requests import (
    EraseUser,
    Event,
    ReadHistory,
    RecommendComments,
    RecommendVideos,
    SendEvents,
)

EVENTS_A_CALL = 1000
SHOWN = 10
NEW_VIDEOS = 12
SHOWN_EVENTS = 5
MIN_COMMENTS = 3


def send_histories(client: Client, data: DemoData) -> None:
    """Send every user's events; sending them again changes nothing."""
    events = [event for user_id in data.events for event in data.events[user_id]]
    started_s = time.monotonic()
    counts = Counter[str]()
    for start in range(0, len(events), EVENTS_A_CALL):
        counts += _send(client, events[start : start + EVENTS_A_CALL])
    print(
        f"{counts['accepted']:,} events of {len(data.events):,} users stored, "
        f"{counts['duplicates']:,} were known, in {time.monotonic() - started_s:.1f} s"
    )


def show_examples(client: Client, data: DemoData) -> None:
    """Print a user's history, what is recommended, and how new events change that."""
    user_id = data.choose_user()
    client.send(EraseUser(user_id))  # an earlier demo gave this user a new taste
    _send(client, data.events[user_id])
    show_history(client, data, user_id)

    before = client.send(RecommendVideos(user_id=user_id, k=SHOWN))
    _need_model(before)
    show_videos(data, before, f"Videos for {user_id}")
    video_id = _with_comments(data, before)
    comments = client.send(RecommendComments(user_id=user_id, video_id=video_id, k=5))
    show_comments(comments, data.title[video_id])

    category = data.least_watched_category(user_id)
    new_events = other_taste(data, user_id, category, now_ms=time.time_ns() // 1_000_000)
    print(f"\n── {user_id} turns to {category}: {len(new_events)} new events")
    show_events(data, new_events[:SHOWN_EVENTS])
    print(f"  … and {len(new_events) - SHOWN_EVENTS} more of that kind")
    _send(client, new_events)

    after = client.send(RecommendVideos(user_id=user_id, k=SHOWN))
    _need_model(after)
    show_videos(data, after, f"Videos for {user_id} now", before)
    show_change(data, before, after, category)


def other_taste(data: DemoData, user_id: str, category: str, *, now_ms: int) -> list[Event]:
    """Likes of a category's most popular videos and of a comment under each, one a minute."""
    last_ms = data.events[user_id][-1].timestamp
    start_ms = max(now_ms - NEW_VIDEOS * 60_000, last_ms + 60_000)
    events: list[Event] = []
    for number, video_id in enumerate(data.popular_videos(category, NEW_VIDEOS)):
        at_ms = start_ms + number * 60_000
        events.append(
            Event(
                event_id=f"new-video-{at_ms}",
                user_id=user_id,
                type="video_like",
                timestamp=at_ms,
                video_id=video_id,
            )
        )
        for comment_id in data.comments_under(video_id)[:1]:
            events.append(
                Event(
                    event_id=f"new-comment-{at_ms}",
                    user_id=user_id,
                    type="comment_like",
                    timestamp=at_ms + 30_000,
                    comment_id=comment_id,
                )
            )
    return events


def show_history(client: Client, data: DemoData, user_id: str) -> None:
    """Print the newest of a user's stored events."""
    history = client.send(ReadHistory(user_id))
    videos, comments = history.videos, history.comments
    print(f"\n── History of {user_id}: {len(videos)} videos, {len(comments)} comments")
    tastes = Counter(data.category[event.video_id] for event in videos).most_common(4)
    print("mostly " + ", ".join(f"{category} {count}" for category, count in tastes))
    newest = [*videos[-6:], *comments[-4:]]
    show_events(data, sorted(newest, key=lambda event: event.timestamp))


def show_events(data: DemoData, events: Sequence[Event | HistoryVideo | HistoryComment]) -> None:
    """Print events with titles and texts."""
    for event in events:
        day = time.strftime("%Y-%m-%d", time.gmtime(event.timestamp / 1000))
        video_id = data.video_of(event)
        words = data.title[video_id]
        if comment_id := getattr(event, "comment_id", None):
            words = f"“{data.text[comment_id]}” under {words}"
        print(f"  {day}  {event.type:<13} {data.category[video_id]:<12} {words}")


def show_videos(
    data: DemoData, answer: VideosAnswer, title: str, before: VideosAnswer | None = None
) -> None:
    """Print recommended videos; beside an earlier answer, where each stood in it."""
    print(f"\n── {title} ({_source(answer)})")
    ranks = {item.video_id: item.rank for item in before.items} if before else {}
    for item in answer.items:
        place = f"was {ranks[item.video_id]}" if item.video_id in ranks else "new"
        print(
            f"  {item.rank:>2}  {item.score:6.3f}  {place if before else '':<6} "
            f"{data.category[item.video_id]:<12} {item.title}"
        )


def show_comments(answer: CommentsAnswer, title: str) -> None:
    """Print the comments recommended under a video."""
    print(f"\n── Comments for the same user under “{title}” ({_source(answer)})")
    if not answer.items:
        raise DemoError("a video with comments was answered without any")
    for item in answer.items:
        print(f"  {item.rank:>2}  {item.score:6.3f}  {item.text}")


def show_change(data: DemoData, before: VideosAnswer, after: VideosAnswer, category: str) -> None:
    """Print how many recommendations are new, and how many are of the new taste."""
    old, new = ([item.video_id for item in answer.items] for answer in (before, after))
    of_taste = [sum(data.category[video_id] == category for video_id in ids) for ids in (old, new)]
    print(
        f"\n{len(set(new) - set(old))} of {len(new)} are new; "
        f"{category}: {of_taste[0]} before, {of_taste[1]} now"
    )
    if old == new:
        raise DemoError("new events changed nothing")


def _send(client: Client, events: Sequence[Event]) -> Counter[str]:
    answer = client.send(SendEvents(list(events)))
    if answer.rejected:
        raise DemoError(f"an event was refused: {answer.rejected[0].detail}")
    return Counter(accepted=answer.accepted, duplicates=answer.duplicates)


def _with_comments(data: DemoData, answer: VideosAnswer) -> str:
    """The first recommended video that has something to rank."""
    ids = [item.video_id for item in answer.items]
    return next((v for v in ids if len(data.comments_under(v)) >= MIN_COMMENTS), ids[0])


def _need_model(answer: VideosAnswer) -> None:
    if answer.source != "model" or answer.degraded:
        raise DemoError(f"answered by {answer.source}, degraded: {answer.degraded}")


def _source(answer: Recommendation) -> str:
    return f"{answer.source}, {answer.timings_ms['total']:.1f} ms"
