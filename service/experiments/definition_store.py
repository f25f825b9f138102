"""Where definitions are kept, for all replicas: the store, with a log of who changed what.

lsvcr:{experiments}:revision   counts changes; cheap to look at
lsvcr:{experiments}:records    a hash of name to record
lsvcr:{experiments}:audit      a stream, capped
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import msgspec

from service.experiments.definition import Experiment
from service.schemas import Body, Timestamp
from service.store_connection import finish_within

_REVISION, _RECORDS, _AUDIT = (
    f"lsvcr:{{experiments}}:{name}" for name in ("revision", "records", "audit")
)
_AUDIT_ENTRIES = 10_000
_SCRIPT = "experiment_change.lua"
_FETCH = b"return {redis.call('GET', KEYS[1]), redis.call('HGETALL', KEYS[2])}"
"""Both at one time. A transaction would do, but the library's for clusters can't read a hash."""


class Record(Body):
    """A definition and when it came about; in a layer older ones have precedence."""

    definition: Experiment
    created_at: Timestamp
    changed_at: Timestamp


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change.

    Attributes:
        at: Unix milliseconds.
        who: The fingerprint of an API key, or `guardrail`.
        before, after: Definitions; None where there was or is none.
        why: What broke, where a guardrail stopped the experiment.
    """

    at: int
    who: str
    action: str
    experiment: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    why: str | None = None


_decode_entry = msgspec.json.Decoder(AuditEntry).decode


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All records as they were at one revision, undecoded.

    Attributes:
        revision: None where the store knows of none: nothing was ever defined, or all was lost.
    """

    revision: int | None
    records: Mapping[str, bytes]


class DefinitionStore:
    """Reads and writes; every method raises HistoryStoreError where the store fails.

    Args:
        redis: As `connect_store` makes it.
        timeout_s: Most that a command may take.
    """

    def __init__(self, redis: Any, *, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        script = resources.files("service.experiments").joinpath(_SCRIPT).read_bytes()
        self._change = redis.register_script(script)
        self._fetch = redis.register_script(_FETCH)

    async def fetch_revision(self) -> int | None:
        """How often anything was changed; None where the store has no definitions at all."""
        value = await finish_within(self._redis.get(_REVISION), self._timeout_s)
        return None if value is None else int(value)

    async def fetch(self) -> Snapshot:
        """All records, with their revision."""
        reading = self._fetch(keys=[_REVISION, _RECORDS])
        revision, flat = await finish_within(reading, self._timeout_s)
        names = [name.decode() for name in flat[::2]]
        return Snapshot(
            None if revision is None else int(revision), dict(zip(names, flat[1::2], strict=True))
        )

    async def change(self, based_on: Snapshot, record: Record | None, entry: AuditEntry) -> bool:
        """Write or delete the record of one experiment.

        Args:
            based_on: What was read before deciding to.
            record: None deletes it.
            entry: Names the experiment.

        Returns:
            False if something was changed since `based_on`; then nothing was written.
        """
        raw = b"" if record is None else record.model_dump_json(by_alias=True).encode()
        arguments = [based_on.revision or 0, entry.experiment, raw]
        arguments += [msgspec.json.encode(entry), _AUDIT_ENTRIES]
        changing = self._change(keys=[_REVISION, _RECORDS, _AUDIT], args=arguments)
        revision: int = await finish_within(changing, self._timeout_s)
        return revision >= 0

    async def fetch_audit(self, experiment: str) -> list[AuditEntry]:
        """Who changed an experiment, the newest first."""
        read = await finish_within(self._redis.xrevrange(_AUDIT), self._timeout_s)
        entries = (_decode_entry(fields[b"entry"]) for _, fields in read)
        return [entry for entry in entries if entry.experiment == experiment]
