"""The experiments as one process knows and serves them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from lsvcr.errors import LsvcrError
from service.engine.model_pool import ModelPool
from service.errors import HistoryStoreError
from service.experiments.assignment import ArmWish, Assignment, assign_all, find_wished
from service.experiments.decision import NO_EXPERIMENT, Decision, decide
from service.experiments.definition import Experiment
from service.experiments.definition_store import DefinitionStore, Record, Snapshot

RETRY_WARMING_S = 30.0
"""How long until a bundle that could not be loaded is tried again."""

logger = logging.getLogger(__name__)


class KnownExperiments:
    """Follows the definitions in the store, and says what they mean for a unit.

    A definition that names bundles takes effect once they are warm; a stop at once. What can't be
    read, because the store is lost or a record is broken, stays as it was known last.

    Args:
        store: Where definitions are kept.
        models: Keeps the bundles that running experiments name.
        on_change: Called with how many experiments run here, and how many wait for a bundle.
    """

    def __init__(
        self,
        store: DefinitionStore,
        models: ModelPool,
        *,
        on_change: Callable[[int, int], None] = lambda running, waiting: None,
    ) -> None:
        self._store = store
        self._models = models
        self._on_change = on_change
        self._revision: int | None = None
        self._records: dict[str, Record] = {}
        self._raw: Mapping[str, bytes] = {}
        self._serving: dict[str, Experiment] = {}
        self._deciding: list[Experiment] = []  # without drafts: each costs every answer a hash
        self._warming: asyncio.Task[None] | None = None

    @property
    def serving(self) -> Mapping[str, Experiment]:
        """The definitions in effect, in their order of precedence."""
        return self._serving

    @property
    def has_sticky(self) -> bool:
        """Whether any running experiment wants to know what arms a unit had before."""
        return any(one.sticky and one.status == "running" for one in self._serving.values())

    async def follow(self, every_s: float) -> None:
        """Look at the store again and again."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.refresh()
            except HistoryStoreError as error:
                logger.debug("keeping the last known experiments: %s", error)
            except Exception:
                logger.exception("following the experiments failed")

    async def refresh(self) -> None:
        """Take over what was changed since the last look.

        Raises:
            HistoryStoreError: If the store can't be read; what is known stays.
        """
        revision = await self._store.fetch_revision()
        if revision == self._revision:
            return
        if revision is None:
            logger.warning("the store has lost its experiments: keeping the last known ones")
            return
        self._adopt(await self._store.fetch())

    async def close(self) -> None:
        """Stop warming bundles up."""
        if self._warming is not None:
            self._warming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._warming

    def decide(
        self, unit: str | None, sticky: Mapping[str, str], wish: ArmWish | None = None
    ) -> Decision:
        """How to answer a unit; without one only a wish counts, and nothing is exposed."""
        if not self._deciding or (unit is None and wish is None):
            return NO_EXPERIMENT
        if unit is not None:
            return decide(self._serving, assign_all(self._deciding, unit, sticky, wish))
        assert wish is not None
        wished = find_wished(self._deciding, wish)
        if wished is None:
            return NO_EXPERIMENT
        decision = decide(self._serving, assign_all([wished], "", wish=wish))
        return Decision(decision.version, decision.overrides, decision.label)

    def assign(self, unit: str, sticky: Mapping[str, str]) -> list[Assignment]:
        """A unit's arms in all experiments."""
        return assign_all([*self._serving.values()], unit, sticky)

    def _adopt(self, snapshot: Snapshot) -> None:
        self._records = {
            name: record
            for name, raw in snapshot.records.items()
            if (record := self._decode(name, raw)) is not None
        }
        self._raw = snapshot.records
        self._revision = snapshot.revision
        self._serve()
        if self._warming is None or self._warming.done():
            self._warming = asyncio.create_task(self._warm_until_done())

    def _decode(self, name: str, raw: bytes) -> Record | None:
        if raw == self._raw.get(name):
            return self._records.get(name)  # the very same: guardrails count on
        try:
            return Record.model_validate_json(raw)
        except ValidationError as error:
            logger.error("experiment %r is broken, keeping the last known one: %s", name, error)
            return self._records.get(name)

    def _serve(self) -> None:
        """Put definitions into effect: what needs a bundle that isn't warm has to wait."""
        serving = {}
        records = sorted(self._records.items(), key=lambda pair: _precedence(pair[1]))
        for name, record in records:
            definition = record.definition
            if definition.status != "running" or self._is_warm(definition):
                serving[name] = definition
            elif (before := self._serving.get(name)) is not None:
                serving[name] = before
        self._serving = serving
        self._deciding = [one for one in serving.values() if one.status != "draft"]
        running = sum(one.status == "running" for one in serving.values())
        waiting = sum(record.definition != serving.get(name) for name, record in records)
        self._on_change(running, waiting)

    def _is_warm(self, definition: Experiment) -> bool:
        return all(map(self._models.has, definition.versions))

    async def warm(self) -> bool:
        """Load what the definitions need, put them into effect, let go of other bundles.

        Returns:
            Whether nothing is missing.
        """
        try:
            await self._models.keep(self.wanted_versions())
        except LsvcrError as error:
            logger.error("an experiment waits for its bundle: %s", error)
            return False
        finally:
            self._serve()
        return True

    async def _warm_until_done(self) -> None:
        revision = None
        while revision != self._revision:
            revision = self._revision
            if not await self.warm():
                await asyncio.sleep(RETRY_WARMING_S)
                revision = None

    def wanted_versions(self) -> set[str]:
        """The bundles to keep warm: of definitions in effect, and of those that wait for them."""
        definitions = [record.definition for record in self._records.values()]
        wanted: set[str] = set()
        for definition in [*definitions, *self._serving.values()]:
            if definition.status == "running":
                wanted |= definition.versions
            elif definition.status == "stopped":
                version = definition.arm(definition.control).model_version
                wanted |= set() if version is None else {version}
        return wanted


def _precedence(record: Record) -> tuple[bool, int, str]:
    """Running ones first, the oldest before; then the others, the one changed last before."""
    if record.definition.status == "running":
        return False, record.created_at, record.definition.name
    return True, -record.changed_at, record.definition.name
