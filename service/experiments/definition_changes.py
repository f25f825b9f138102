"""Changing definitions: what is checked before, and what is written down about it."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from lsvcr.errors import LsvcrError
from service.engine.model_pool import ModelPool
from service.errors import ExperimentRefusedError, UnknownExperimentError
from service.experiments.decision import find_conflict
from service.experiments.definition import Experiment
from service.experiments.definition_store import AuditEntry, DefinitionStore, Record, Snapshot
from service.experiments.known_experiments import KnownExperiments

_ATTEMPTS = 10


class DefinitionChanges:
    """Every method takes who asks, for the audit log, and raises HistoryStoreError.

    Args:
        store: Where definitions are kept.
        known: This process's view, which follows each change at once.
        models: Loads the bundles that arms name.
        clock: Seconds since 1970, UTC.
    """

    def __init__(
        self,
        store: DefinitionStore,
        known: KnownExperiments,
        models: ModelPool,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._known = known
        self._models = models
        self._clock = clock

    async def fetch_all(self) -> list[Record]:
        """All experiments, as the store has them, the oldest first; broken records are left out."""
        records = _decode(await self._store.fetch())
        return sorted(records.values(), key=lambda one: (one.created_at, one.definition.name))

    async def fetch(self, name: str) -> Record:
        """One experiment; raises UnknownExperimentError."""
        return _find(_decode(await self._store.fetch()), name)

    async def fetch_audit(self, name: str) -> list[AuditEntry]:
        """Who changed an experiment, the newest first."""
        return await self._store.fetch_audit(name)

    async def put(self, experiment: Experiment, who: str) -> Record:
        """Create or replace a definition.

        Raises:
            ExperimentRefusedError: If an arm's bundle can't be loaded, or a running experiment
                would decide the same for the same users.
        """
        await self._check_bundles(experiment)

        def replace(records: dict[str, Record], now_ms: int) -> Record:
            if experiment.status == "running":
                others = [record.definition for record in records.values()]
                if conflict := find_conflict(experiment, others):
                    raise ExperimentRefusedError(conflict)
            before = records.get(experiment.name)
            created_ms = now_ms if before is None else before.created_at
            return Record(definition=experiment, created_at=created_ms, changed_at=now_ms)

        changed = await self._change(experiment.name, "put", who, replace)
        assert changed is not None
        return changed

    async def stop(self, name: str, who: str, why: str | None = None) -> Record:
        """Give everybody the control, on every replica; raises UnknownExperimentError."""

        def stop(records: dict[str, Record], now_ms: int) -> Record:
            before = _find(records, name)
            stopped = before.definition.model_copy(update={"status": "stopped"})
            return Record(definition=stopped, created_at=before.created_at, changed_at=now_ms)

        changed = await self._change(name, "stop", who, stop, why)
        assert changed is not None
        return changed

    async def delete(self, name: str, who: str) -> None:
        """Forget a definition.

        Raises:
            UnknownExperimentError: If there is none.
            ExperimentRefusedError: If it is running.
        """

        def refuse_running(records: dict[str, Record], now_ms: int) -> None:
            if _find(records, name).definition.status == "running":
                raise ExperimentRefusedError(f"{name!r} is running: stop it first")

        await self._change(name, "delete", who, refuse_running)

    async def _check_bundles(self, experiment: Experiment) -> None:
        """Load what the arms name, also of a draft: better refused now than when it starts."""
        try:
            await self._models.keep(self._known.wanted_versions() | experiment.versions)
        except LsvcrError as error:
            cold = [arm for arm in experiment.arms if not self._is_warm(arm.model_version)]
            if cold:
                await self._known.warm()
                raise ExperimentRefusedError(f"arm {cold[0].name!r}: {error}") from error

    def _is_warm(self, version: str | None) -> bool:
        return version is None or self._models.has(version)

    async def _change(
        self,
        name: str,
        action: str,
        who: str,
        make: Callable[[dict[str, Record], int], Record | None],
        why: str | None = None,
    ) -> Record | None:
        """Read, decide, write; all over again where somebody else wrote in between."""
        for _ in range(_ATTEMPTS):
            snapshot = await self._store.fetch()
            records = _decode(snapshot)
            now_ms = int(self._clock() * 1000)
            after = make(records, now_ms)
            entry = AuditEntry(
                at=now_ms,
                who=who,
                action=action,
                experiment=name,
                before=_dump(records.get(name)),
                after=_dump(after),
                why=why,
            )
            if await self._store.change(snapshot, after, entry):
                await self._known.refresh()
                return after
        raise ExperimentRefusedError("others are changing experiments all the time: try again")


def _decode(snapshot: Snapshot) -> dict[str, Record]:
    records = {}
    for name, raw in snapshot.records.items():
        with contextlib.suppress(ValidationError):  # told by those who follow the definitions
            records[name] = Record.model_validate_json(raw)
    return records


def _find(records: dict[str, Record], name: str) -> Record:
    if name not in records:
        raise UnknownExperimentError(f"there is no experiment {name!r}")
    return records[name]


def _dump(record: Record | None) -> dict[str, Any] | None:
    return None if record is None else record.definition.model_dump(mode="json", by_alias=True)
