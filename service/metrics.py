"""What Prometheus may know; one registry per app, so that two apps in a process don't mix.

With several worker processes each has its own: a scrape sees the worker that happens to answer.
Run one worker per container where exact sums matter, and let Prometheus add them up.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS)


class Metrics:
    """All counters of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lsvcr_requests", "Requests.", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "lsvcr_request_seconds",
            "Time from a request's arrival to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "lsvcr_stage_seconds",
            "Time that a recommendation spends in a stage.",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self.answers = Counter(
            "lsvcr_answers", "Recommendations by source.", ["source"], registry=self.registry
        )
        self.degraded = Counter(
            "lsvcr_degraded_answers",
            "Recommendations that lacked something.",
            ["cause"],
            registry=self.registry,
        )
        self.store_failures = Counter(
            "lsvcr_store_failures",
            "Commands that the history store did not answer.",
            registry=self.registry,
        )
        self.events = Counter(
            "lsvcr_events", "Events received.", ["outcome"], registry=self.registry
        )
        self._model = Info("lsvcr_model", "The model that answers.", registry=self.registry)
        self._waiting = Gauge(
            "lsvcr_queue_waiting", "Requests waiting for the model.", registry=self.registry
        )

    def render(self, *, model_version: str, waiting: int) -> bytes:
        """All values in Prometheus' text format.

        Args:
            model_version: Which model answers now; empty for none.
            waiting: How many requests wait for it now.
        """
        self._model.info({"version": model_version})
        self._waiting.set(waiting)
        return generate_latest(self.registry)
