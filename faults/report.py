"""Turns what was seen into one row of figures, and judges it by the goals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from faults.load import DEADLINE_MS, Answered, Record

SLACK_S = 0.25
"""What client and balancer may take beyond the deadline on a machine that does both."""
RECOVERY_S = 2.0
DECLARED = {"overloaded"}


@dataclass(frozen=True)
class Row:
    """One scenario.

    Attributes:
        errors: 5xx and broken answers of `/recommend/*`, but for declared overload.
        late: Answers after their deadline.
        retried: Requests that a second replica answered, as the first one's connection broke.
        p50_ms, p99_ms: Before, during and after the fault.
        recovery_s: From the fault's end until nine of ten answers of every second are whole again.
        degraded_before: Answers that lacked something before the fault: what a busy machine does.
        lacking: How many answers lacked what, before it and since.
        lost: Accepted events that the log doesn't hold.
        failures: Goals that were missed; empty is good.
    """

    scenario: str
    requests: int
    errors: int
    overloaded: int
    degraded_before: int
    degraded: int
    lacking: dict[str, int]
    late: int
    retried: int
    p50_ms: tuple[float, float, float]
    p99_ms: tuple[float, float, float]
    events_sent: int
    events_accepted: int
    events_found: int
    lost: int
    fault_s: float
    recovery_s: float
    ready: str
    notes: list[str]
    failures: list[str]


def judge(
    scenario: str,
    record: Record,
    *,
    began_s: float,
    ended_s: float,
    found: int,
    notes: list[str],
    failures: list[str],
    may_lose: bool = False,
) -> Row:
    """Count, compare with the goals, and name those that were missed."""
    asked = record.asked
    phases = (
        [one for one in asked if one.due_s < began_s],
        [one for one in asked if began_s <= one.due_s < ended_s],
        [one for one in asked if one.due_s >= ended_s],
    )
    errors = [one for one in asked if _is_error(one)]
    late = [one for one in asked if one.seconds > DEADLINE_MS / 1000 + SLACK_S]
    recovery_s = _recovery(phases[2], ended_s)
    lost = len(record.accepted) - found
    goals = {
        f"{len(errors)} errors: {_kinds(errors)}": not errors,
        f"{len(late)} answers late": not late,
        f"recovered after {recovery_s:.1f} s": recovery_s <= RECOVERY_S,
        f"{lost} accepted events lost": lost == 0 or may_lose,
        f"{len(record.sent - record.accepted)} events never accepted": record.sent
        == record.accepted,
    }
    return Row(
        scenario,
        len(asked),
        len(errors),
        sum(one.problem in DECLARED for one in asked),
        sum(bool(one.degraded) for one in phases[0]),
        sum(bool(one.degraded) for one in asked),
        dict(Counter(cause for one in asked for cause in one.degraded)),
        len(late),
        sum(one.is_retried for one in asked),
        tuple(_percentile(phase, 50) for phase in phases),  # type: ignore[arg-type]
        tuple(_percentile(phase, 99) for phase in phases),  # type: ignore[arg-type]
        len(record.sent),
        len(record.accepted),
        found,
        lost,
        round(ended_s - began_s, 1),
        round(recovery_s, 2),
        _readiness(record, began_s, ended_s),
        notes,
        [*failures, *(text for text, is_met in goals.items() if not is_met)],
    )


def as_table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| scenario | requests | 5xx | overload | degraded (before) | late | retried | p50 ms "
        "| p99 ms | events sent / accepted / found | fault s | back after s | goals |",
        "|" + "---|" * 13,
    ]
    for row in rows:
        p50, p99 = (" / ".join(f"{x:.0f}" for x in three) for three in (row.p50_ms, row.p99_ms))
        events = f"{row.events_sent} / {row.events_accepted} / {row.events_found}"
        verdict = "; ".join(row.failures) or "met"
        lines.append(
            f"| {row.scenario} | {row.requests} | {row.errors} | {row.overloaded} "
            f"| {row.degraded} ({row.degraded_before}) "
            f"| {row.late} | {row.retried} | {p50} | {p99} | {events} | {row.fault_s} "
            f"| {row.recovery_s} | {verdict} |"
        )
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows as JSON."""
    return [asdict(row) for row in rows]


def _recovery(after: Sequence[Answered], ended_s: float) -> float:
    """The end of the last second in which more than one answer of ten lacked something."""
    seconds: dict[int, list[bool]] = {}
    for one in after:
        is_whole = one.status == 200 and not one.degraded
        seconds.setdefault(int(one.due_s - ended_s), []).append(is_whole)
    spoilt = [second for second, whole in seconds.items() if whole.count(True) < 0.9 * len(whole)]
    if not spoilt:
        return 0.0
    last = [
        one.due_s + one.seconds - ended_s
        for one in after
        if int(one.due_s - ended_s) == max(spoilt) and (one.status != 200 or one.degraded)
    ]
    return max(last)


def _is_error(one: Answered) -> bool:
    return (one.status >= 500 and one.problem not in DECLARED) or one.status == 0


def _kinds(errors: Sequence[Answered]) -> str:
    return ", ".join(sorted({f"{one.status} {one.problem}" for one in errors}))


def _percentile(answers: Sequence[Answered], percent: float) -> float:
    if not answers:
        return 0.0
    return round(float(np.percentile([one.seconds * 1000 for one in answers], percent)), 1)


def _readiness(record: Record, began_s: float, ended_s: float) -> str:
    """What health checks said during the fault: each kind of answer once."""
    seen = {
        f"{status}{' ' + '+'.join(degraded) if degraded else ''}"
        for at_s, _, status, degraded in record.readiness
        if began_s + 0.5 <= at_s < ended_s
    }
    return ", ".join(sorted(seen))
