"""Which arms one request is answered by."""

from typing import Literal

from fastapi import Request

from service.auth import ANYBODY, Caller
from service.errors import ForbiddenError, HistoryStoreError, InvalidRequestError
from service.experiments.assignment import ArmWish, find_wished
from service.experiments.decision import Decision
from service.experiments.known_experiments import KnownExperiments


async def choose_arms(request: Request, unit: str | None) -> Decision:
    """Decide how to answer a unit; None where nobody is known.

    Raises:
        ForbiddenError: If the request forces an arm, and may not.
        InvalidRequestError: If it forces an arm that there isn't.
    """
    known: KnownExperiments = request.app.state.experiments
    wish = _read_wish(request, known)
    sticky: dict[str, str] = {}
    if unit is not None and known.has_sticky:
        try:
            sticky = await request.app.state.store.fetch_arms(unit, request.state.deadline_s)
        except HistoryStoreError:
            sticky = {}  # the history's own read says so in `degraded`
    decision = known.decide(unit, sticky, wish)
    for one in decision.exposed:
        is_new = one.reason == "bucket" and one.experiment not in sticky
        if is_new and known.serving[one.experiment].sticky:
            request.app.state.store.remember_arm(unit, one.experiment, one.arm)
    return decision


def _read_wish(request: Request, known: KnownExperiments) -> ArmWish | None:
    headers: dict[bytes, bytes] = request.state.headers
    if (given := headers.get(b"x-arm")) is None:
        return None
    caller: Caller = getattr(request.state, "caller", ANYBODY)
    is_trusted: bool = request.app.state.trusts_arm_header
    if not (caller.is_admin or is_trusted):
        raise ForbiddenError("X-Arm needs a key of the role admin")
    reason: Literal["header", "forced"] = "header" if is_trusted else "forced"
    experiment = headers.get(b"x-experiment")
    wish = ArmWish(
        given.decode("latin-1"),
        None if experiment is None else experiment.decode("latin-1"),
        reason,
    )
    # A gateway may learn later that an experiment is gone: its users are answered all the same.
    if not is_trusted and find_wished(known.serving.values(), wish) is None:
        raise InvalidRequestError([(("header", "X-Arm"), "No experiment has such an arm")])
    return wish
