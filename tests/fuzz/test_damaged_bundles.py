"""Damaged bundles are refused with a reason while the old one answers; nothing worse happens."""

import asyncio
import contextlib
import itertools
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from bundle_damage import CERTAIN, Damage, random_bytes
from effort import TRIED, effort
from hypothesis import given, note
from hypothesis import strategies as st
from tiny_bundle_builder import PRIOR, PROFILE, sign, write_tiny_bundle

from lsvcr.catalogue import item_hashes
from lsvcr.errors import LsvcrError
from lsvcr.registry import write_current
from service.engine.engine import InlineEngine
from service.engine.model_pool import ModelPool
from service.engine.queries import CommentQuery, EventHistory, FeedQuery, VideoQuery
from service.engine.recommender import Recommender
from service.routes.recommendation_answers import build_answer, encode_json

SOUND = "sound"
HISTORY = EventHistory(
    item_hashes(["v3", "v7", "v9"]),
    np.arange(3, dtype=np.int64),
    item_hashes(["c5", "c8"]),
    np.arange(2, dtype=np.int64),
)


@dataclass(frozen=True)
class Workshop:
    """A pool that serves a sound bundle, and a place for damaged ones beside it."""

    master: Path
    registry: Path
    pool: ModelPool
    runner: asyncio.Runner
    versions: Iterator[str]

    @contextlib.contextmanager
    def damaged(self, damage: Damage) -> Iterator[str]:
        """Make a bundle of a version of its own, spoil it, and clean up."""
        self.activate(SOUND)
        version = next(self.versions)
        folder = shutil.copytree(self.master, self.registry / version)
        sign(folder, version=version)
        try:
            note(damage(folder))
            yield version
        finally:
            for left in self.registry.glob("damaged*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def activate(self, version: str) -> None:
        self.runner.run(self.pool.activate(version))

    def serving(self) -> Recommender:
        return self.pool.current()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("workshop")
    master, registry = folder / "masters" / "master", folder / "registry"
    write_tiny_bundle(master, version="master", prior=PRIOR, profile=PROFILE)
    write_tiny_bundle(registry / SOUND, version=SOUND)
    write_current(registry, SOUND)
    with asyncio.Runner() as runner:
        engine = InlineEngine(registry, device="cpu", max_batch=2)
        pool = ModelPool(registry, engine, max_queue=8, max_batch=2)
        runner.run(pool.open())
        versions = map("damaged-{}".format, itertools.count())
        yield Workshop(master, registry, pool, runner, versions)
        runner.run(pool.close())


@pytest.mark.parametrize("kind", sorted(CERTAIN))
@effort(sample=8, fuzz=200)
@given(data=st.data())
def test_what_is_certainly_wrong_is_refused_with_a_reason(
    workshop: Workshop, kind: str, data: st.DataObject
) -> None:
    TRIED[f"bundles, {kind}"] += 1
    with workshop.damaged(data.draw(CERTAIN[kind])) as version:
        with pytest.raises(LsvcrError) as refusal:
            workshop.activate(version)
        check_reason(workshop, refusal.value)
    assert workshop.serving().version == SOUND
    workshop.runner.run(ask_everything(workshop.serving()))


@effort(sample=8, fuzz=400)
@given(damage=random_bytes())
def test_what_may_be_harmless_is_refused_or_answers_well(
    workshop: Workshop, damage: Damage
) -> None:
    TRIED["bundles, random bytes"] += 1
    with workshop.damaged(damage) as version:
        try:
            workshop.activate(version)
        except LsvcrError as refusal:
            check_reason(workshop, refusal)
    workshop.runner.run(ask_everything(workshop.serving()))


def check_reason(workshop: Workshop, refusal: LsvcrError) -> None:
    reason = str(refusal)
    assert 0 < len(reason) < 1000
    assert str(workshop.registry) not in reason


async def ask_everything(recommender: Recommender) -> None:
    videos = VideoQuery(HISTORY, k=50, deadline_s=math.inf)
    for asked in (
        recommender.recommend_videos(videos),
        recommender.recommend_feed(FeedQuery(videos, 3)),
        recommender.recommend_comments(CommentQuery(HISTORY, k=200, deadline_s=math.inf)),
        recommender.recommend_videos(VideoQuery(None, k=50, deadline_s=math.inf)),
    ):
        answer = await asked
        assert not answer.degraded
        read = msgspec.json.decode(encode_json(build_answer(answer, user_id=None, started_s=0)))
        assert all(math.isfinite(item["score"]) for item in read["items"])
