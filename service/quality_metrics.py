"""What Prometheus may know of how good the recommendations are, as far as it shows at once.

Ratios are for whoever asks: counters of shown items and of what came of them, by arm.
"""

import math
import sys
import time
from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Callable, Iterable

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from service.bulk_histogram import BulkHistogram
from service.engine.queries import Answer
from service.event_log import Event

NO_ARM = "none"
COVERAGE_WINDOW_S = 3600
_SCORES = (-5.0, -2.0, -1.0, *(half / 2 for half in range(21)), 12.0, 15.0, 20.0, 30.0)


class _Shown(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What one answer showed; the best item's score where the model answered."""

    kind: str
    arm: str
    video_ids: tuple[str, ...]
    comments: int
    deciles: tuple[int, ...]
    top_score: float | None


class QualityMetrics:
    """Shown items, feedback, popularity, coverage and scores.

    Args:
        clock: Seconds since 1970, UTC.
    """

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._shown = Counter(
            "lsvcr_items_shown", "Recommended items.", ["kind", "arm"], registry=registry
        )
        self._feedback = Counter(
            "lsvcr_feedback_events",
            "Events that name a recommendation; one that is sent again counts again.",
            ["type", "arm"],
            registry=registry,
        )
        self._watched = Counter(
            "lsvcr_feedback_watch_seconds",
            "Watch time of those events.",
            ["kind", "arm"],
            registry=registry,
        )
        by_popularity = Counter(
            "lsvcr_videos_shown_by_popularity",
            "Recommended videos by tenth of the catalogue, 1 the most popular.",
            ["decile"],
            registry=registry,
        )
        self._of_decile = {decile: by_popularity.labels(str(decile)) for decile in range(1, 11)}
        self._top_score = BulkHistogram(
            "lsvcr_top_score",
            "The best item's score, where the model answered.",
            ["kind"],
            buckets=_SCORES,
            registry=registry,
        )
        self._covered = Gauge(
            "lsvcr_videos_covered",
            "Different videos that one process showed in the last full hour (of several the most).",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._clock = clock
        self._shown_lately: list[_Shown] = []
        self._window = int(clock() // COVERAGE_WINDOW_S)
        self._seen = DistinctCount()

    def record_answer(self, kind: str, answer: Answer, *, arm: str = NO_ARM) -> None:
        """Count what one recommendation shows.

        Args:
            kind: As in `Metrics.record_answer`.
            arm: `EXPERIMENT/ARM` of the answer.
        """
        score = answer.items[0].score if answer.source == "model" and answer.items else None
        shown = _Shown(
            kind, arm, answer.video_ids, len(answer.comment_ids), answer.popularity_deciles, score
        )
        self._shown_lately.append(shown)

    def settle(self, most: int = sys.maxsize) -> bool:
        """As `Metrics.settle`."""
        shown, self._shown_lately = self._shown_lately[:most], self._shown_lately[most:]
        items: Counted[tuple[str, str]] = Counted()
        scores: defaultdict[str, list[float]] = defaultdict(list)
        for one in shown:
            items["video", one.arm] += len(one.video_ids)
            items["comment", one.arm] += one.comments
            if one.top_score is not None:
                scores[one.kind].append(one.top_score)
        for labels, count in items.items():
            if count:
                self._shown.labels(*labels).inc(count)
        for kind, values in scores.items():
            self._top_score.labels(kind).observe_all(values)
        for decile, count in Counted(one for each in shown for one in each.deciles).items():
            self._of_decile[decile].inc(count)
        self._seen.add({video_id for one in shown for video_id in one.video_ids})
        self._close_window()
        return bool(self._shown_lately)

    def record_feedback(self, events: Iterable[Event], arm_of: Callable[[str], str]) -> None:
        """Count what came of recommendations.

        Args:
            arm_of: A user's arm, as in `record_answer`.
        """
        for event in events:
            if event.recommendation_id is not None:
                arm = arm_of(event.user_id)
                self._feedback.labels(event.type, arm).inc()
                if event.watch_time_ms is not None:
                    kind = event.type.partition("_")[0]
                    self._watched.labels(kind, arm).inc(event.watch_time_ms / 1000)

    def _close_window(self) -> None:
        """Once an hour is over, tell how many different videos it saw."""
        window = int(self._clock() // COVERAGE_WINDOW_S)
        if window != self._window:
            self._covered.set(round(self._seen.estimate()))
            self._window, self._seen = window, DistinctCount()


class DistinctCount:
    """How many different strings were added, within about a percent, in 128 kB.

    Source:
        Whang, Vander-Zanden, Taylor, "A linear-time probabilistic counting algorithm for
        database applications" (1990): a hash sets one of m bits; n = -m log(share of unset bits).
    """

    _BITS = 1 << 20

    def __init__(self) -> None:
        self._bits = bytearray(self._BITS // 8)

    def add(self, texts: Iterable[str]) -> None:
        """Count each string once, however often it comes."""
        bits, last = self._bits, self._BITS - 1
        for text in texts:
            place = hash(text) & last
            bits[place >> 3] |= 1 << (place & 7)

    def estimate(self) -> float:
        """How many came; for more than some five million a lower bound."""
        unset = self._BITS - int.from_bytes(self._bits).bit_count()
        return -self._BITS * math.log(max(unset, 1) / self._BITS)
