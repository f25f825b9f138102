"""Tells the metrics, again and again, what state this process is in."""

import asyncio
import logging
import sys
from datetime import datetime
from typing import Any

from lsvcr.errors import LsvcrError
from service.engine.model_pool import ModelPool
from service.history_store import HistoryStore
from service.metrics import Metrics, ModelState
from service.own_times import attempt, repeat
from service.quality_metrics import QualityMetrics

EVERY_S = 0.5
"""Much shorter than the time between two scrapes: another process may be the one scraped."""
TOLD_TOGETHER = 100
"""Answers whose counts are told in one turn of the event loop: 1 to 2 ms, in which nothing else is
done, a quarter of it for any answers at all."""
PAUSE_S = 0.01
"""Until the next are told: one after another they took up to 10 ms of a worker at its limit."""
CHECK_EVERY_S = 60.0
"""From one check of the index to the next: a scan takes milliseconds of a core."""

_REPORTING = "reporting the state"

logger = logging.getLogger(__name__)


class StateReporter:
    """Reads the state of models and store where it is cheap to know.

    Args:
        metrics, quality: What to tell.
    """

    def __init__(
        self, models: ModelPool, store: HistoryStore, metrics: Metrics, quality: QualityMetrics
    ) -> None:
        self._models = models
        self._store = store
        self._metrics = metrics
        self._quality = quality

    async def follow(self) -> None:
        """Report now, and again and again until cancelled."""
        await attempt(self._report_in_pieces, name=_REPORTING)
        await repeat(self._report_in_pieces, every_s=EVERY_S, name=_REPORTING)

    async def watch_index(self) -> None:
        """Check the index until cancelled."""
        await repeat(self.check_recall, every_s=CHECK_EVERY_S, name="checking the index")

    def report(self) -> None:
        """Report now, and have all that was counted until now told as well."""
        self._settle(sys.maxsize)
        self._tell_state()

    async def _report_in_pieces(self) -> None:
        while self._settle(TOLD_TOGETHER):
            await asyncio.sleep(PAUSE_S)
        self._tell_state()

    def _settle(self, most: int) -> bool:
        """As `Metrics.settle`."""
        left = [self._metrics.settle(most), self._quality.settle(most)]
        return any(left)

    def _tell_state(self) -> None:
        model = None
        if not self._models.readiness():
            model = _model_state(self._models.current().status())
        self._metrics.record_state(model, store_is_failing=self._store.is_failing)

    async def check_recall(self) -> None:
        """Check the index with what somebody asked of it lately, if anybody did."""
        if self._models.readiness():
            return
        try:
            check = await self._models.current().check_recall()
        except LsvcrError as error:
            logger.debug("the index was not checked: %s", error)
            return
        if check is not None:
            self._metrics.record_recall(found=check.found, missed=check.missed)


def _model_state(status: dict[str, Any]) -> ModelState:
    data_until_ms = status["data_until_ms"]
    return ModelState(
        version=status["version"],
        device=status["device"],
        created_s=datetime.fromisoformat(status["created_at"]).timestamp(),
        data_until_s=None if data_until_ms is None else data_until_ms / 1000,
        videos=status["counts"]["videos"],
        comments=status["counts"]["comments"],
        recall=status["index_recall"],
        engines=status.get("engines", 1),
        waiting=status["waiting"],
    )
