"""What the service answers is what training computes: the whole score, part by part."""

import asyncio
import math
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.bundle_writer import complete_bundle
from export.candidate_index import IndexOptions
from export.trained_run import TrainedRun
from lsvcr.catalogue import item_hashes
from lsvcr.popularity import HOUR_MS, decayed_counts
from service.engine.engine import InlineEngine
from service.engine.popularity_prior import LiveCounts
from service.engine.queries import Answer, CommentQuery, EventHistory, Query, VideoQuery
from service.engine.ranker import Ranker
from tests.export.invented_run import quiet
from tests.training import worlds
from training.dataset_folder import Dataset
from training.encoder import Recommender
from training.popularity_prior import PriorSeed, seed_prior
from training.samples import Samples, draw_samples
from training.score_parts import ScoreParts
from training.scorers import ModelScorer
from training.split import Prepared, prepare

FIRST_HOUR = worlds.START_MS // HOUR_MS - 24
CONFIG = worlds.config("model.prior_half_lives_days=[2, 9]", "model.profile_events=3")
TOLERANCE = 2e-3
"""Training keeps the prior in fp16, and a bundle its profile rows."""


def drawn_world() -> Dataset:
    """Users who do something every few hours for a month, some of them without comments."""
    random = np.random.default_rng(11)
    # Training leaves out videos that nobody watched, with their comments: let there be none.
    video_events = [("u0", f"v{n}", worlds.START_MS - (n + 1) * HOUR_MS) for n in range(15)]
    comment_events = []
    for user in range(14):
        for hour in random.choice(30 * 24, random.integers(6, 40), replace=False):
            at_ms = worlds.START_MS + int(hour) * HOUR_MS
            if random.random() < 0.5 and user % 5:
                first = int(random.integers(90))
                comment_events += [  # up to three comments under one video in a few minutes
                    (f"u{user}", f"c{(first + 15 * more) % 90}", at_ms + more * 60_000)
                    for more in range(int(random.integers(1, 4)))
                ]
            else:
                video = random.integers(15, size=2).min()  # some are more popular
                video_events.append((f"u{user}", f"v{video}", at_ms))
    return worlds.dataset(
        videos=[(f"v{number}", f"title {number}") for number in range(15)],
        comments=[(f"c{n}", f"v{n % 15}", f"text {n} of {n % 15}") for n in range(90)],
        video_events=video_events,
        comment_events=comment_events,
    )


class World:
    """One data set as training sees it, and its model served."""

    def __init__(self, bundle_folder: Path, sequence: dict[str, torch.Tensor], folder: Path):
        self.dataset = drawn_world()
        self.prepared = prepare(self.dataset, CONFIG)
        text = worlds.random_text(self.prepared)
        tables = map(torch.from_numpy, (text.title_VE, text.comment_CE, text.feature_CF))
        recommender = Recommender(CONFIG.model, *tables).eval()
        with torch.no_grad():
            for parameter in recommender.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
            recommender.items.id.weight[0] = 0
        recommender.sequence.load_state_dict(sequence)
        self.ranker = serve(self.prepared, recommender, bundle_folder, folder)
        self.samples: Samples = draw_samples(self.prepared, CONFIG, "test")
        parts = ScoreParts.build(
            self.prepared, text, recommender, self.samples.videos.event_T, torch.device("cpu")
        )
        self.scorer = ModelScorer(recommender, parts, self.samples)

    def history_before(self, user: int, time_ms: int) -> EventHistory:
        """A user's raw events before a moment, as the store would hold them."""
        sides = []
        for table, column in (
            (self.dataset.video_events, "video_id"),
            (self.dataset.comment_events, "comment_id"),
        ):
            rows = [
                (item, at_ms)
                for name, item, at_ms in table.select("user_id", column, "timestamp").rows()
                if name == self.prepared.user_ids[user] and at_ms < time_ms
            ]
            sides += [item_hashes([item for item, _ in rows]), np.array([t for _, t in rows], int)]
        return EventHistory(*sides)

    def count_training_events_before(self, time_ms: int) -> LiveCounts:
        """What live counters would say, had they counted training events only."""
        timelines = self.prepared.timelines
        is_train_N = self.prepared.video_held_out_N == 0
        hour_N = timelines.video_time_N // HOUR_MS
        by_hour: dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]] = {}
        for hour in np.unique(hour_N[is_train_N]).tolist():
            is_here_N = is_train_N & (hour_N == hour)
            row_E, count_E = np.unique(timelines.video_N[is_here_N], return_counts=True)
            names = [self.prepared.catalogue.video_id[row] for row in row_E]
            by_hour[hour] = (item_hashes(names), count_E)
        return LiveCounts(time_ms // HOUR_MS, by_hour)


def serve(prepared: Prepared, recommender: Recommender, graphs_from: Path, folder: Path) -> Ranker:
    """Export with a seed that knows nothing yet, and open."""
    folder = folder / "v"
    folder.mkdir()
    for path in graphs_from.glob("*.onnx"):
        copyfile(path, folder / path.name)
    run = TrainedRun(
        config=CONFIG,
        catalogue=prepared.catalogue,
        timelines=prepared.timelines,
        recommender=recommender,
        training_events_V=prepared.training_events_V,
        prior_seed=PriorSeed(FIRST_HOUR, np.zeros((2, prepared.catalogue.video_count), np.float32)),
        comment_events=len(prepared.comment_targets("train")),
        metrics={},
        data_fingerprint="0" * 64,
    )
    complete_bundle(
        run, folder, version="v", created_at=datetime.now(UTC), options=IndexOptions(), step=quiet
    )
    engine = InlineEngine(folder.parent, device="cpu", max_batch=4)
    return Ranker(asyncio.run(engine.open("v")))


@pytest.fixture(scope="module")
def world(run: TrainedRun, bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The exported graphs hold the sequence encoder only: another world may share them."""
    torch.manual_seed(3)
    return World(
        bundle_folder, run.recommender.sequence.state_dict(), tmp_path_factory.mktemp("whole")
    )


def answer(ranker: Ranker, query: Query) -> Answer:
    [result] = asyncio.run(ranker.answer([query]))
    assert isinstance(result, Answer)
    assert result.source == "model"
    return result


def test_served_video_scores_are_those_of_training(world: World) -> None:
    samples, catalogue = world.samples, world.prepared.catalogue
    offline_SV = world.scorer.videos(slice(None))
    priors, repeats = [], []
    for sample, event in enumerate(samples.videos.event_T):
        time_ms = int(world.prepared.timelines.video_time_N[event])
        world.ranker.update_popularity(world.count_training_events_before(time_ms))
        events = world.history_before(int(samples.videos.user_T[sample]), time_ms)
        query = VideoQuery(events, 15, math.inf, exclude_seen=False, explain=True)
        items = answer(world.ranker, query).items
        assert len(items) == 15
        for item in items:
            expected = offline_SV[sample, catalogue.video_index.row(item.video_id)]
            assert item.score == pytest.approx(expected, abs=TOLERANCE)
            assert item.parts is not None
            priors.append(item.parts["prior"])
            repeats.append(item.parts["repeat"])
    assert len(samples.videos.event_T) >= 10
    assert np.std(priors) > 0.1  # each has a say
    assert np.std(repeats) > 0.1


def test_served_comment_scores_are_those_of_training(world: World) -> None:
    samples, catalogue = world.samples, world.prepared.catalogue
    offline_SN = world.scorer.comments(slice(None))
    profiles = []
    for sample, event in enumerate(samples.comments.event_T):
        time_ms = int(world.prepared.timelines.comment_time_M[event])
        events = world.history_before(int(samples.comments.user_T[sample]), time_ms)
        video_id = catalogue.video_id[int(samples.comments.video_T[sample])]
        query = CommentQuery(events, 100, math.inf, video_id=video_id, explain=True)
        items = answer(world.ranker, query).items
        score = {item.comment_id: item for item in items}
        for row, expected in zip(samples.candidate_SN[sample], offline_SN[sample], strict=True):
            if row:
                item = score[catalogue.comment_id[row]]
                assert item.score == pytest.approx(expected, abs=TOLERANCE)
                assert item.parts is not None
                profiles.append(item.parts["profile"])
    assert len(samples.comments.event_T) >= 8
    assert np.std(profiles) > 0.5


def test_a_seed_stands_for_the_events_before_it(world: World) -> None:
    prepared = world.prepared
    half_lives = CONFIG.model.prior_half_lives_days
    seed = seed_prior(prepared, half_lives)
    assert seed is not None
    hour_N = prepared.timelines.video_time_N // HOUR_MS
    by_hour = {
        hour: np.unique(prepared.timelines.video_N[hour_N == hour], return_counts=True)
        for hour in np.unique(hour_N).tolist()
    }
    nothing_HV = np.zeros((len(half_lives), prepared.catalogue.video_count), np.float32)
    for later in (0, 5):
        hour = seed.hour + later
        counted_HV = decayed_counts(nothing_HV, FIRST_HOUR, by_hour, hour, half_lives)
        seeded_HV = decayed_counts(seed.decayed_count_HV, seed.hour, {}, hour, half_lives)
        assert seeded_HV == pytest.approx(counted_HV, rel=1e-5)
