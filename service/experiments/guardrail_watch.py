"""Stops an experiment by itself when one of its arms fails."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from lsvcr.errors import LsvcrError
from service.engine.queries import Answer
from service.errors import UnknownVideoError
from service.experiments.assignment import Assignment
from service.experiments.definition import Experiment, Guardrails
from service.experiments.known_experiments import KnownExperiments

GUARDRAIL = "guardrail"
"""Who stopped the experiment, in the audit log."""

Stop = Callable[[str, str, str], Awaitable[object]]

logger = logging.getLogger(__name__)


class ArmWindow:
    """The newest answers of one arm, and what they come to.

    Args:
        size: How many; nothing is said before there are as many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._answers: deque[tuple[bool, bool, float]] = deque()
        self._failed = 0
        self._empty = 0
        self._latency_ms = 0.0

    def add(self, *, failed: bool, empty: bool, latency_ms: float) -> None:
        """Note one answer, and forget the oldest."""
        self._answers.append((failed, empty, latency_ms))
        self._count(failed, empty, latency_ms, 1)
        if len(self._answers) > self._size:
            self._count(*self._answers.popleft(), -1)

    def broken(self, limits: Guardrails) -> dict[str, str]:
        """Say which limits are broken, and by how much; none while it is too early to say."""
        if len(self._answers) < self._size:
            return {}
        found = {
            "error_rate": self._failed / self._size,
            "empty_rate": self._empty / self._size,
            "mean_latency_ms": self._latency_ms / self._size,
        }
        return {
            name: f"{name} {value:.4g} is above {limit:g} in {self._size} answers"
            for name, value in found.items()
            if (limit := getattr(limits, name)) is not None and value > limit
        }

    def _count(self, failed: bool, empty: bool, latency_ms: float, sign: int) -> None:
        self._failed += sign * failed
        self._empty += sign * empty
        self._latency_ms += sign * latency_ms


class GuardrailWatch:
    """Watches the arms of running experiments with guardrails.

    Where the control breaks a limit as well it isn't the arm's fault, and nothing is stopped.

    Args:
        known: The definitions in effect.
        stop: Stops an experiment, for everybody: name, who, why.
        on_stop: Called for each that was stopped.
    """

    def __init__(
        self, known: KnownExperiments, stop: Stop, *, on_stop: Callable[[], None] = lambda: None
    ) -> None:
        self._known = known
        self._stop = stop
        self._on_stop = on_stop
        self._windows: dict[tuple[str, str], tuple[Experiment, ArmWindow]] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}

    async def observe(self, exposed: Sequence[Assignment], asking: Awaitable[Answer]) -> Answer:
        """Await an answer and note how that went; what the caller did wrong counts for nobody."""
        started_s = time.monotonic()
        try:
            answer = await asking
        except UnknownVideoError:
            raise
        except Exception:
            self._note(exposed, started_s, failed=True, empty=False)
            raise
        self._note(exposed, started_s, failed=False, empty=not answer.items)
        return answer

    def _note(
        self, exposed: Sequence[Assignment], started_s: float, *, failed: bool, empty: bool
    ) -> None:
        latency_ms = (time.monotonic() - started_s) * 1000
        for one in exposed:
            definition = self._known.serving.get(one.experiment)
            if definition is None or definition.guardrails is None or one.arm is None:
                continue
            window = self._window(definition, one.arm)
            window.add(failed=failed, empty=empty, latency_ms=latency_ms)
            if one.arm == definition.control or one.experiment in self._stopping:
                continue
            if broken := window.broken(definition.guardrails):
                control = self._window(definition, definition.control)
                as_well = control.broken(definition.guardrails)
                if own := [why for name, why in broken.items() if name not in as_well]:
                    self._stop_soon(one.experiment, f"arm {one.arm!r}: {own[0]}")

    def _window(self, definition: Experiment, arm: str) -> ArmWindow:
        """The arm's window; a changed definition begins anew."""
        key = (definition.name, arm)
        known = self._windows.get(key)
        if known is not None and known[0] is definition:
            return known[1]
        assert definition.guardrails is not None
        self._windows[key] = definition, ArmWindow(definition.guardrails.answers)
        return self._windows[key][1]

    def _stop_soon(self, name: str, why: str) -> None:
        async def stop() -> None:
            try:
                await self._stop(name, GUARDRAIL, why)
                self._on_stop()
                logger.warning("stopped experiment %r: %s", name, why)
            except LsvcrError as error:  # the next answers try again
                logger.error("experiment %r should stop (%s), but: %s", name, why, error)
            finally:
                del self._stopping[name]

        self._stopping[name] = asyncio.create_task(stop())
