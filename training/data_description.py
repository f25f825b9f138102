"""What a data set looks like, and what it can support: `python -m training data check`.

Shape suffixes: N video events, U users, V videos, K best videos.
"""

from collections import Counter

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.dataset_folder import Dataset

DAY_MS = 86_400_000
RECENT_DAYS = 7
BEST = 10
SAMPLED_USERS, SAMPLED_TEXTS = 5_000, 5_000
UNITS = (("days", DAY_MS), ("hours", 3_600_000), ("minutes", 60_000), ("seconds", 1_000))
SCRIPTS = (
    ("Latin", 0x0041, 0x024F),
    ("Greek", 0x0370, 0x03FF),
    ("Cyrillic", 0x0400, 0x052F),
    ("Hebrew", 0x0590, 0x05FF),
    ("Arabic", 0x0600, 0x06FF),
    ("Devanagari", 0x0900, 0x097F),
    ("Thai", 0x0E00, 0x0E7F),
    ("Japanese kana", 0x3040, 0x30FF),
    ("Han", 0x4E00, 0x9FFF),
    ("Hangul", 0xAC00, 0xD7AF),
)
FEW_USERS, FEW_EVENTS, MANY_REPEATS, LONG_TEXT = 1_000, 5, 0.2, 500


def describe(dataset: Dataset) -> tuple[list[tuple[str, str]], list[str]]:
    """Facts as (what, figure), and advice that follows from them."""
    facts, advice = _events(dataset)
    if dataset.time_unit == "ms" and len(dataset.video_events):
        more_facts, more_advice = _times(dataset.video_events)
        facts, advice = facts + more_facts, advice + more_advice
    elif dataset.time_unit != "ms":
        advice.append("Timestamps are positions, no times: there will be no recent popularity.")
    for name, texts in (
        ("titles", dataset.videos["title"]),
        ("comments", dataset.comments["text"]),
    ):
        if len(texts):
            more_facts, more_advice = _texts(name, texts)
            facts, advice = facts + more_facts, advice + more_advice
    return facts, advice


def time_resolution(timestamp_N: pl.Series) -> str:
    """The coarsest unit that all timestamps are whole numbers of."""
    for name, unit in UNITS:
        if not (timestamp_N % unit != 0).any():
            return name
    return "milliseconds"


def popularity_hits(events: pl.DataFrame) -> tuple[float, float]:
    """How often users' last videos were among the ten most popular of all time, and of late.

    Only what happened before the day of the event counts; of late is the week before.
    """
    events = events.sort("timestamp")
    last = events.group_by("user_id", maintain_order=True).last()
    last = last.sample(min(len(last), SAMPLED_USERS), seed=0)
    video_N = _numbers(events["video_id"])
    day_N = events["timestamp"].to_numpy() // DAY_MS
    number = dict(zip(events["video_id"].to_list(), video_N.tolist(), strict=True))
    count_V = np.zeros(int(video_N.max()) + 1, np.int64)
    done, hits_ever, hits_late = 0, 0, 0
    asked = last.with_columns(day=pl.col("timestamp") // DAY_MS).sort("day")
    for (day,), users in asked.group_by("day", maintain_order=True):
        before = int(np.searchsorted(day_N, day))
        count_V += np.bincount(video_N[done:before], minlength=len(count_V))
        done = before
        week = int(np.searchsorted(day_N, int(day) - RECENT_DAYS))  # type: ignore[call-overload]
        late_V = np.bincount(video_N[week:before], minlength=len(count_V))
        wanted = [number[video] for video in users["video_id"].to_list()]
        hits_ever += int(np.isin(wanted, _most_frequent(count_V)).sum())
        hits_late += int(np.isin(wanted, _most_frequent(late_V)).sum())
    return hits_ever / len(last), hits_late / len(last)


def script_shares(texts: list[str]) -> dict[str, float]:
    """Share of each script among the letters, largest first; no guess at languages."""
    letters = Counter(letter for text in texts for letter in text if letter.isalpha())
    counts: Counter[str] = Counter()
    for letter, count in letters.items():
        counts[_script(ord(letter))] += count
    total = counts.total() or 1
    return {name: count / total for name, count in counts.most_common()}


def _events(dataset: Dataset) -> tuple[list[tuple[str, str]], list[str]]:
    events = dataset.video_events
    facts, advice = [], []
    users, videos = events["user_id"].n_unique(), events["video_id"].n_unique()
    if not len(events):
        return [], ["There are no video events: nothing can be trained."]
    per_user = events.group_by("user_id").len()["len"]
    pairs = events.select("user_id", "video_id").n_unique()
    repeats = 1 - pairs / len(events)
    enough = float((per_user >= FEW_EVENTS).mean() or 0)
    facts += [
        ("video events per user", f"median {per_user.median():,.0f}, largest {per_user.max():,}"),
        ("users with 5 events or more", f"{enough:.0%}"),
        ("videos with an event", f"{videos:,} of {len(dataset.videos):,}"),
        ("sparsity", f"{1 - pairs / (users * videos):.3%} of user-video pairs are empty"),
        ("repeats of a video by its user", f"{repeats:.1%} of video events"),
    ]
    if users * enough < FEW_USERS:
        advice.append(
            f"Few users have {FEW_EVENTS} events: metrics will have wide intervals; compare by "
            "`training compare`, and expect baselines to be hard to beat."
        )
    if repeats > MANY_REPEATS:
        advice.append("Users come back to the same videos: keep evaluate.exclude_seen=false.")
    elif repeats == 0:
        advice.append("Nobody repeats a video: consider evaluate.exclude_seen=true.")
    comments = dataset.comment_events
    if len(comments):
        both = set(comments["user_id"].unique()) & set(events["user_id"].unique())
        facts.append(("users with events of both kinds", f"{len(both):,} of {users:,}"))
    else:
        advice.append("There are no comment events: only the video task can be trained.")
    return facts, advice


def _times(events: pl.DataFrame) -> tuple[list[tuple[str, str]], list[str]]:
    resolution = time_resolution(events["timestamp"])
    ties = 1 - events.select("user_id", "timestamp").n_unique() / len(events)
    ever, late = popularity_hits(events)
    facts = [
        ("time resolution", f"{resolution}; {ties:.1%} of events share their user's instant"),
        (f"last videos among the {BEST} most popular of all time", f"{ever:.1%}"),
        (f"among those of the {RECENT_DAYS} days before", f"{late:.1%}"),
    ]
    advice = []
    if ties > MANY_REPEATS:
        advice.append("Many events share an instant, so their order within a user is arbitrary.")
    if late > 1.5 * ever and late > 0.01:
        advice.append(
            "Recent popularity is much stronger than popularity of all time: keep "
            "model.prior_half_lives_days, and judge the model against it."
        )
    elif late < ever:
        advice.append("Recent popularity says less than popularity of all time: try a run without.")
    return facts, advice


def _texts(name: str, texts: pl.Series) -> tuple[list[tuple[str, str]], list[str]]:
    letters = texts.str.len_chars()
    sample = texts.sample(min(len(texts), SAMPLED_TEXTS), seed=0).to_list()
    shares = [f"{script} {share:.0%}" for script, share in script_shares(sample).items()][:3]
    empty = float((letters == 0).mean() or 0)
    long = float(letters.quantile(0.95) or 0)
    facts = [
        (f"length of {name}", f"median {letters.median():,.0f}, 95 % below {long:,.0f} characters"),
        (f"scripts of {name}", ", ".join(shares) or "no letters"),
        (f"empty {name}", f"{empty:.1%}"),
    ]
    advice = []
    if long > LONG_TEXT:
        advice.append(f"Some {name} are long: text.max_tokens cuts them; raise it if ends matter.")
    latin = script_shares(sample).get("Latin", 0.0)
    if shares and latin < 0.7:
        advice.append(f"Many {name} are not in Latin script: choose text.language_model for them.")
    return facts, advice


def _most_frequent(count_V: NDArray[np.int64]) -> NDArray[np.int64]:
    best_K = np.argsort(-count_V, kind="stable")[:BEST]
    return best_K[count_V[best_K] > 0]


def _numbers(values: pl.Series) -> NDArray[np.int64]:
    return values.rank("dense").to_numpy().astype(np.int64) - 1


def _script(code: int) -> str:
    return next((name for name, first, last in SCRIPTS if first <= code <= last), "other")
