"""The check of the index against an exact scan."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine import recall_check
from service.engine.candidate_index import Candidates
from service.engine.engine import InlineEngine, Kind, LocalBundle
from service.engine.recall_check import RecallCheck, check_recall


class EverySecond:
    """A real bundle whose index loses every second candidate."""

    def __init__(self, whole: LocalBundle) -> None:
        self.bundle, self.sizes, self.whole = whole.bundle, whole.sizes, whole

    async def search(
        self, kind: Kind, query_BD: NDArray[np.float32], counts: Sequence[int]
    ) -> list[Candidates]:
        [found] = await self.whole.search(kind, query_BD, counts)
        return [Candidates(found.row_N[::2], found.part_N[::2], found.floor)]


def open_bundle(tiny_master: Path, folder: Path) -> LocalBundle:
    engine = InlineEngine(tiny_master, device="cpu", max_batch=2)
    return asyncio.run(engine.open(folder.name))


@pytest.mark.parametrize("at_once", [7, 50, recall_check.AT_ONCE])
def test_an_exact_index_misses_nothing(
    at_once: int, tiny_master: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall_check, "AT_ONCE", at_once)
    opened = open_bundle(tiny_master, tiny_bundle)
    for preference_D in opened.bundle.golden.video_preference_BD:
        check = asyncio.run(check_recall(opened, preference_D))
        assert check == RecallCheck(found=50, missed=0)  # all videos there are


def test_as_many_are_compared_as_rankings_look_at(
    tiny_master: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall_check, "AT_ONCE", 7)
    monkeypatch.setattr(recall_check, "CHECKED", 10)
    opened = open_bundle(tiny_master, tiny_bundle)
    preference_D = opened.bundle.golden.video_preference_BD[-1]
    assert asyncio.run(check_recall(opened, preference_D)) == RecallCheck(10, 0)
    halved = EverySecond(opened)
    check = asyncio.run(check_recall(halved, preference_D))  # type: ignore[arg-type]
    assert check == RecallCheck(5, 5)


def test_what_an_index_loses_is_told(tiny_master: Path, tiny_bundle: Path) -> None:
    opened = EverySecond(open_bundle(tiny_master, tiny_bundle))
    preference_D = opened.bundle.golden.video_preference_BD[-1]
    check = asyncio.run(check_recall(opened, preference_D))  # type: ignore[arg-type]
    assert check == RecallCheck(found=25, missed=25)
