"""What Prometheus may know of one app: how it answers, and what state it is in.

Label values come from short lists of our own (routes, stages, causes, versions loaded since the
start), never from a request. With several worker processes each writes to files of a folder that
they share, and whichever is scraped adds all of them up.
"""

import os
import sys
import time
from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.bulk_histogram import BulkHistogram
from service.engine.queries import Answer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The library's own switch, an environment variable: it counts in this folder if that is set when
it is imported. `service.serving` sets it for its worker processes."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def keep_process_id() -> None:
    """For a process that never forks: the library asks the system at every step of a counter."""
    process_id = os.getpid()
    values.ValueClass = values.MultiProcessValue(lambda: process_id)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is told about the model that answers.

    Attributes:
        created_s, data_until_s: Unix time of its export and of the newest event it has seen; None
            where the bundle doesn't say.
        recall: By index: recall@100 as measured at export.
        engines: That compute for this process now; several where there are several GPUs.
    """

    version: str
    device: str
    created_s: float
    data_until_s: float | None
    videos: int
    comments: int
    recall: dict[str, float]
    engines: int
    waiting: int


class _Answered(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What is counted of one answer; `labels` are its kind, source and version."""

    labels: tuple[str, str, str]
    degraded: tuple[str, ...]
    history_ms: float
    timings_ms: dict[str, float]
    used: int
    ignored: int
    batch_size: int


class Metrics:
    """All counters of one app, in a registry of its own: two apps in a process don't mix.

    What is counted for every request and answer is only noted, and told to `registry` by `settle`:
    to find labelled values and count each time cost more than the rest of an answer's records.

    Args:
        max_queue: Requests that may wait for the model, to compare with how many do.
    """

    def __init__(self, *, max_queue: int) -> None:
        self.registry = CollectorRegistry()
        self._requests_lately: list[tuple[str, int, float]] = []
        self._requests = self._counter("requests", "Requests.", "route", "status")
        self._request_seconds = self._histogram(
            "request_duration_seconds",
            "Time from a request's arrival to its answer.",
            _SECONDS,
            "route",
        )
        self.store_failures = self._counter(
            "store_failures", "Commands that the history store did not answer."
        )
        self.model_refusals = self._counter(
            "model_refusals", "Times that the registry's current bundle could not be used."
        )
        self.events = self._counter("events", "Events received.", "outcome")
        self._exposures = self._counter(
            "exposures", "Answers for the log of exposures: written, or dropped.", "outcome"
        )
        self._shadows = self._counter(
            "shadow_answers", "Answers of shadow arms: done, failed or dropped.", "outcome"
        )
        self._guardrail_stops = self._counter(
            "guardrail_stops", "Experiments that a guardrail stopped, seen from this process."
        )
        self._answers_lately: list[_Answered] = []
        self._stage_seconds = self._histogram(
            "stage_duration_seconds",
            "Time that a recommendation spends in a stage.",
            _STAGE_SECONDS,
            "stage",
        )
        self._answers = self._counter(
            "answers", "Recommendations by where they come from.", "kind", "source", "version"
        )
        self._degraded = self._counter(
            "degraded_answers", "Recommendations that lacked something.", "cause"
        )
        for cause in ("history_store", "encoder"):  # a rate needs a value before the first failure
            self._degraded.labels(cause)
        history_events = self._counter(
            "history_events",
            "Events of histories: used, or ignored as the model doesn't know their item.",
            "outcome",
        )
        self._used, self._ignored = history_events.labels("used"), history_events.labels("ignored")
        self._batch_size = self._histogram(
            "batch_size",
            "Requests computed together with a request, itself included.",
            _BATCH_SIZES,
        )
        self._checked = self._counter(
            "index_checked_videos",
            "Best videos by an exact scan that the index was checked for: found, or missed.",
            "outcome",
        )
        for outcome in ("found", "missed"):
            self._checked.labels(outcome)
        self._describe_state(max_queue)
        self._version = ("", "")

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Count one request, whatever came of it."""
        self._requests_lately.append((route, status, seconds))

    def record_answer(
        self, kind: str, answer: Answer, *, degraded: tuple[str, ...], history_ms: float
    ) -> None:
        """Count one recommendation.

        Args:
            kind: `videos`, `comments`, `feed` or `similar`.
            degraded: What was missing before the engine was asked.
            history_ms: What reading the history took.
        """
        self._answers_lately.append(
            _Answered(
                (kind, answer.source, answer.model_version),
                (*degraded, *answer.degraded),
                history_ms,
                answer.timings_ms,
                sum(answer.history_used),
                answer.ignored,
                answer.batch_size,
            )
        )

    def settle(self, most: int = sys.maxsize) -> bool:
        """Tell `registry` of requests and answers until now, the first ones; to be repeated.

        Args:
            most: Of either.

        Returns:
            Whether any are left.
        """
        requests, self._requests_lately = self._requests_lately[:most], self._requests_lately[most:]
        answers, self._answers_lately = self._answers_lately[:most], self._answers_lately[most:]
        self._settle_requests(requests)
        self._settle_answers(answers)
        return bool(self._requests_lately or self._answers_lately)

    def record_recall(self, *, found: int, missed: int) -> None:
        """Count one check of the video index."""
        self._checked.labels("found").inc(found)
        self._checked.labels("missed").inc(missed)

    def record_exposures(self, outcome: str, count: int) -> None:
        """Count answers that were written to the log of exposures, or dropped."""
        self._exposures.labels(outcome).inc(count)

    def record_shadow(self, outcome: str) -> None:
        """Count one answer of a shadow arm: `done`, `failed` or `dropped`."""
        self._shadows.labels(outcome).inc()

    def record_guardrail_stop(self) -> None:
        """Count an experiment that was stopped by itself."""
        self._guardrail_stops.inc()

    def record_experiments(self, running: int, waiting: int) -> None:
        """Tell how many experiments run here, and how many wait for a bundle."""
        self._experiments.labels("running").set(running)
        self._experiments.labels("waiting").set(waiting)

    def record_state(self, model: ModelState | None, *, store_is_failing: bool) -> None:
        """Note what this process is like now; to be repeated, as others read it from a file."""
        self._ready.set(model is not None)
        self._store_failing.set(store_is_failing)
        if model is None:
            return
        version = (model.version, model.device)
        if self._version not in (("", ""), version):
            self._model.labels(*self._version).set(0)
        self._version = version
        self._model.labels(*version).set(1)
        self._waiting.set(model.waiting)
        self._engines.set(model.engines)
        self._created.set(model.created_s)
        if model.data_until_s is not None:
            self._data_until.set(model.data_until_s)
        self._items.labels("video").set(model.videos)
        self._items.labels("comment").set(model.comments)
        for index, recall in model.recall.items():
            self._recall.labels(index).set(recall)

    def render(self) -> bytes:
        """All values in Prometheus' text format, those of all worker processes together."""
        folder = os.environ.get(SHARED_FOLDER)
        if folder is None:
            return generate_latest(self.registry)
        _forget_dead_processes(Path(folder))
        together = CollectorRegistry()
        MultiProcessCollector(together, path=folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def _settle_requests(self, requests: Sequence[tuple[str, int, float]]) -> None:
        seconds: defaultdict[str, list[float]] = defaultdict(list)
        for route, _, took_s in requests:
            seconds[route].append(took_s)
        for route, values_s in seconds.items():
            self._request_seconds.labels(route).observe_all(values_s)
        for labels, count in Counted((route, status) for route, status, _ in requests).items():
            self._requests.labels(*labels).inc(count)

    def _settle_answers(self, answers: Sequence[_Answered]) -> None:
        for labels, count in Counted(one.labels for one in answers).items():
            self._answers.labels(*labels).inc(count)
        for cause, count in Counted(cause for one in answers for cause in one.degraded).items():
            self._degraded.labels(cause).inc(count)
        seconds: defaultdict[str, list[float]] = defaultdict(list)
        for one in answers:
            seconds["history"].append(one.history_ms / 1000)
            for stage, took_ms in one.timings_ms.items():
                if stage != "total":  # which the request's own time tells, and more
                    seconds[stage].append(took_ms / 1000)
        for stage, values_s in seconds.items():
            self._stage_seconds.labels(stage).observe_all(values_s)
        self._used.inc(sum(one.used for one in answers))
        self._ignored.inc(sum(one.ignored for one in answers))
        self._batch_size.observe_all([one.batch_size for one in answers])

    def _describe_state(self, max_queue: int) -> None:
        """Where workers differ the worst is told: the oldest model, the first that isn't ready."""
        self._ready = self._gauge("model_ready", "1 where a model can answer.", "livemin")
        self._model = self._gauge(
            "model_info",
            "1 for the model that answers, 0 for those that did since the start.",
            "livemax",
            "version",
            "device",
        )
        self._created = self._gauge(
            "model_created_timestamp_seconds", "When the model was exported.", "livemin"
        )
        self._data_until = self._gauge(
            "model_data_timestamp_seconds", "Newest event that the model has seen.", "livemin"
        )
        self._items = self._gauge(
            "catalogue_items", "Items that the model knows.", "livemin", "kind"
        )
        self._recall = self._gauge(
            "index_recall_ratio", "Recall at 100, measured at export.", "livemin", "index"
        )
        self._engines = self._gauge(
            "engines", "Engines that compute: one a GPU, or one in all.", "livemin"
        )
        self._store_failing = self._gauge(
            "store_failing", "1 where the store failed so often that it is left alone.", "livemax"
        )
        self._waiting = self._gauge("queue_waiting", "Requests waiting for the model.", "livesum")
        limit = self._gauge("queue_limit", "Requests that may wait for the model.", "livesum")
        limit.set(max_queue)
        self._experiments = self._gauge(
            "experiments",
            "Experiments that run, and running ones that wait for a bundle.",
            "livemax",
            "state",
        )
        started = self._gauge("start_timestamp_seconds", "When the app started.", "livemin")
        started.set(time.time())

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"lsvcr_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> BulkHistogram:
        return BulkHistogram(f"lsvcr_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, of_workers: str, *labels: str) -> Gauge:
        return Gauge(
            f"lsvcr_{name}",
            text,
            labels,
            multiprocess_mode=of_workers,  # type: ignore[arg-type]
            registry=self.registry,
        )


def _forget_dead_processes(folder: Path) -> None:
    """What a dead worker counted stays counted; what it was like is no longer true."""
    pids = {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}
    for pid in pids:
        if not _lives(pid):
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    return True
