"""Items added later stand where they would stand had the whole been exported."""

import asyncio
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from export.__main__ import main
from export.added_items import add_items
from export.bundle_writer import complete_bundle
from export.candidate_index import IndexOptions
from export.item_vectors import build_profile_table, build_tables
from export.pipeline import export_run
from export.trained_run import TrainedRun, open_run
from lsvcr.bundle import Bundle, Manifest, load_bundle
from lsvcr.catalogue import Catalogue, build_catalogue
from lsvcr.registry import list_versions, read_current
from service.engine.engine import InlineEngine
from service.engine.queries import Answer, EventHistory, VideoQuery
from service.engine.ranker import Ranker
from tests.export.invented_run import TEXT_WIDTH, quiet
from tests.training import worlds
from tests.training.tiny_language_model import save_tiny_language_model
from training.checkpoint import BEST, read_checkpoint, write_checkpoint
from training.dataset_folder import Dataset, write_dataset
from training.encoder import Recommender
from training.new_items import NewItems, NewText, items_beyond
from training.steps import embed_step, fit_step, start_run

CONFIG = worlds.config("fit.epochs=1", "text.width=32")


@pytest.fixture(scope="module")
def full_run(run: TrainedRun) -> TrainedRun:
    """The invented run with all that a model may have: categories and profiles."""
    model = run.config.model.model_copy(update={"use_categories": True, "profile_events": 3})
    config = run.config.model_copy(update={"model": model})
    old, catalogue = run.recommender, run.catalogue
    feature_CF = torch.randn(catalogue.comment_count, TEXT_WIDTH)
    tables = (old.items.title_VE, old.items.comment_CE, feature_CF)
    full = Recommender(model, *tables, torch.from_numpy(catalogue.category_V))
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.normal_(std=0.3)
        full.items.id.weight[0] = 0
    assert full.items.category is not None and full.profile is not None
    return replace(run, config=config, recommender=full.eval())


def by_id(table: np.ndarray, ids: object) -> dict[str, np.ndarray]:
    return dict(zip(list(ids), table, strict=True))  # type: ignore[call-overload]


def item_tables(run: TrainedRun) -> dict[str, dict[str, np.ndarray]]:
    """Every table of a bundle, its rows by item."""
    tables = build_tables(run.recommender, run.catalogue.popular_comment())
    if run.recommender.profile is not None:
        tables["profile_CF"] = build_profile_table(run.recommender.profile)
    return {
        name: by_id(
            table,
            run.catalogue.comment_id
            if name.startswith(("comment_input", "comment_candidate", "profile"))
            else run.catalogue.video_id,
        )
        for name, table in tables.items()
    }


def invent_items(run: TrainedRun) -> tuple[NewItems, NewText]:
    """Three videos, one of them of a category that nobody knows; comments under old and new."""
    videos = worlds.dataset(
        videos=[(f"new{n}", f"new title {n}") for n in range(3)],
        comments=[],
        video_events=[],
        comment_events=[],
    ).videos.with_columns(category=pl.Series(["category 1", "unheard of", None]))
    under = ["v0", "new0", "new0", "v2", "new1"]
    comments = worlds.dataset(
        videos=[],
        comments=[(f"late{n}", video, f"late {n}") for n, video in enumerate(under)],
        video_events=[],
        comment_events=[],
    ).comments
    random = np.random.default_rng(3)
    vectors = [random.normal(size=(n, TEXT_WIDTH)).astype(np.float32) for n in (3, 5, 5)]
    codes = {name: code for code, name in enumerate(run.catalogue.categories)}
    category_N = np.array([codes["category 1"], 0, 0], np.int32)
    return NewItems(videos, comments), NewText(*vectors, category_N)


def whole_run(run: TrainedRun, items: NewItems, text: NewText) -> TrainedRun:
    """The same model over a catalogue that had the items from the first; slow and clear."""
    known = run.catalogue
    comments = [
        (known.comment_id[c], known.video_id[known.comment_video_C[c]], known.comment_text[c])
        for c in range(1, known.comment_count)
    ]
    late = list(items.comments.select("comment_id", "video_id", "text").iter_rows())
    catalogue = build_catalogue(
        video_ids=[*list(known.video_id)[1:], *items.videos["video_id"]],
        titles=[*list(known.video_title)[1:], *items.videos["title"]],
        categories=[None] * (known.video_count + 2),
        authors=[None] * (known.video_count + 2),
        published_ms=[None] * (known.video_count + 2),
        comment_ids=[row[0] for row in [*reversed(late), *comments]],
        comment_texts=[row[2] for row in [*reversed(late), *comments]],
        comment_video_ids=[row[1] for row in [*reversed(late), *comments]],
        likes=[*range(-len(late), 0), *[0] * len(comments)],  # late ones last, the first one first
    )
    old = run.recommender
    title = by_id(old.items.title_VE.numpy(), known.video_id)
    title |= by_id(text.title_NE, items.videos["video_id"])
    vector = by_id(old.items.comment_CE.numpy(), known.comment_id)
    vector |= by_id(text.comment_ME, items.comments["comment_id"])
    category = by_id(old.items.category_V.numpy(), known.video_id)
    category |= by_id(text.category_N, items.videos["video_id"])
    feature = dict.fromkeys(vector, np.zeros(TEXT_WIDTH, np.float32))
    if old.profile is not None:
        feature = by_id(old.profile.feature_CF.numpy(), known.comment_id)
        feature |= by_id(text.feature_MF, items.comments["comment_id"])
    whole = Recommender(
        run.config.model,
        torch.from_numpy(np.stack([title[one] for one in catalogue.video_id])),
        torch.from_numpy(np.stack([vector[one] for one in catalogue.comment_id])),
        torch.from_numpy(np.stack([feature[one] for one in catalogue.comment_id])),
        torch.from_numpy(np.stack([category[one] for one in catalogue.video_id])),
    )
    weights = old.state_dict()
    ids = by_id(weights["items.id.weight"].numpy(), known.video_id)
    nothing = np.zeros_like(ids[""])
    rows = np.stack([ids.get(one, nothing) for one in catalogue.video_id])
    whole.load_state_dict({**weights, "items.id.weight": torch.from_numpy(rows)})
    return replace(run, catalogue=catalogue, recommender=whole.eval())


def test_added_items_get_the_vectors_that_they_would_have_in_a_whole_export(
    full_run: TrainedRun,
) -> None:
    run = full_run
    items, text = invent_items(run)
    grown = add_items(run, items, text)
    added, whole = item_tables(grown), item_tables(whole_run(run, items, text))
    assert added.keys() == whole.keys()
    for name, rows in added.items():
        assert rows.keys() == whole[name].keys()
        for item, row in rows.items():
            np.testing.assert_array_equal(row, whole[name][item], err_msg=f"{name} {item}")
    assert added["video_candidate_VD"]["new0"].any()
    assert added["comment_candidate_CD"]["late1"].any()


def test_known_items_stay_what_they_are(full_run: TrainedRun) -> None:
    run = full_run
    grown = add_items(run, *invent_items(run))
    before, after = item_tables(run), item_tables(grown)
    for name, rows in before.items():
        for item, row in rows.items():
            np.testing.assert_array_equal(row, after[name][item], err_msg=f"{name} {item}")
    comments = [list(one.catalogue.comment_id) for one in (run, grown)]
    ids = [
        np.array(names)[one.timelines.comment_MK]
        for names, one in zip(comments, (run, grown), strict=True)
    ]
    np.testing.assert_array_equal(*ids)
    assert grown.catalogue.categories[grown.catalogue.category_V[-2]] == "unheard of"
    beyond = items_beyond(grown.catalogue, run.catalogue)
    assert beyond.videos["video_id"].to_list() == ["new0", "new1", "new2"]
    assert sorted(beyond.comments["comment_id"]) == [f"late{n}" for n in range(5)]


class World:
    """A run that knows all but what came late, and a registry with its bundle."""

    def __init__(self, folder: Path, graphs: Path, sequence: dict[str, torch.Tensor]) -> None:
        self.folder, self.registry = folder, folder / "registry"
        self.all = worlds.random_dataset(4)
        model = save_tiny_language_model(folder / "model")
        config = CONFIG.override([f"text.language_model={model}"])
        write_dataset(self.without(self.all, "v13", "v14"), folder / "data")
        run, prepared = start_run(
            folder / "run", config, folder / "data", folder / "vectors", skip_bad_rows=False
        )
        embed_step(run, prepared)
        fit_step(run, prepared)
        run.begin("evaluate", {})
        run.write_metrics({})
        run.finish("evaluate")
        weights, notes = read_checkpoint(folder / "run" / BEST)
        weights |= {f"sequence.{name}": value for name, value in sequence.items()}
        write_checkpoint(folder / "run" / BEST, weights, notes)  # to what graphs were exported from

        def write(run: TrainedRun, to: Path, **how: object) -> Manifest:
            for graph in graphs.glob("*.onnx"):
                os.link(graph, to / graph.name)
            return complete_bundle(run, to, **how)

        options = IndexOptions()
        publish = partial(export_run, options=options, activate=True, keep=3, step=quiet)
        publish(open_run(folder / "run"), self.registry, write=write)

    def without(self, dataset: Dataset, *videos: str) -> Dataset:
        is_out = pl.col("video_id").is_in(videos)
        comments = dataset.comments.filter(~is_out)
        return replace(
            dataset,
            videos=dataset.videos.filter(~is_out),
            comments=comments,
            video_events=dataset.video_events.filter(~is_out),
            comment_events=dataset.comment_events.join(comments, on="comment_id", how="semi"),
        )

    def add(self, items: Path) -> int:
        arguments = ["add", "--items", str(items), "--run", str(self.folder / "run")]
        return main([*arguments, "--registry", str(self.registry), "--activate"])

    def current(self) -> Bundle:
        current = read_current(self.registry)
        assert current is not None
        return load_bundle(self.registry / current.version)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, run: TrainedRun, bundle_folder: Path) -> World:
    sequence = run.recommender.sequence.state_dict()
    return World(tmp_path_factory.mktemp("world"), bundle_folder, sequence)


def titles(catalogue: Catalogue) -> dict[str, str]:
    return dict(zip(catalogue.video_id, catalogue.video_title, strict=True))


def test_new_items_are_published_beside_what_is_there(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = world.current()
    world.all.videos.write_csv(tmp_path / "videos.csv")  # the whole table: known ones are left out
    world.all.comments.write_parquet(tmp_path / "comments.parquet")
    assert world.add(tmp_path) == 0
    after = world.current()
    assert "new: 2 videos" in capsys.readouterr().out
    assert titles(after.catalogue) == {"": ""} | dict(
        world.all.videos.select("video_id", "title").iter_rows()
    )
    assert set(after.catalogue.comment_id) == {"", *world.all.comments["comment_id"]}
    graph = "encoder.onnx"
    assert (before.folder / graph).stat().st_ino == (after.folder / graph).stat().st_ino
    assert after.manifest.data_fingerprint == before.manifest.data_fingerprint

    late = pl.DataFrame({"comment_id": ["z"], "video_id": ["v14"], "text": ["one two"]})
    (tmp_path / "late").mkdir()
    late.write_csv(tmp_path / "late" / "comments.csv")
    assert world.add(tmp_path / "late" / "comments.csv") == 0
    last = world.current()
    assert set(last.catalogue.comment_id) == {*after.catalogue.comment_id, "z"}
    assert titles(last.catalogue) == titles(after.catalogue)
    versions = list_versions(world.registry)
    assert world.add(tmp_path / "late") == 0
    assert "nothing new" in capsys.readouterr().out
    assert list_versions(world.registry) == versions

    row = last.catalogue.video_index.row("v14")
    answer = asyncio.run(recommend_all(last))
    assert "v14" in answer
    assert last.tables["video_candidate_VD"][row].any()


async def recommend_all(bundle: Bundle) -> list[str]:
    """Every video that the service recommends to somebody who watched one."""
    nothing = np.empty(0, np.uint64)
    watched = np.asarray(bundle.catalogue.video_index.sorted_hash_N[:1])
    time_N = np.zeros(1, np.int64)
    history = EventHistory(watched, time_N, nothing, nothing.astype(np.int64))
    engine = InlineEngine(bundle.folder.parent, device="cpu", max_batch=4)
    try:
        ranker = Ranker(await engine.open(bundle.manifest.version))
        query = VideoQuery(history, k=20, deadline_s=float("inf"), exclude_seen=False)
        [answer] = await ranker.answer([query])
    finally:
        await engine.close()
    assert isinstance(answer, Answer)
    assert answer.source == "model"
    return [item.video_id for item in answer.items]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("videos.csv", "video_id,title\nx,\n", "row 1, column title: is empty"),
        (
            "comments.csv",
            "comment_id,video_id,text\nc1,v1,a\nnew,gone,b\n",
            "row 2, column video_id: names an unknown video (found 'gone')",
        ),
        ("films.csv", "video_id,title\nx,y\n", "is neither a table named videos or comments"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_published(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    message: str,
) -> None:
    (tmp_path / name).write_text(content)
    versions = list_versions(world.registry)
    assert world.add(tmp_path / name) == 2
    assert message in capsys.readouterr().err
    assert list_versions(world.registry) == versions


def test_another_language_model_is_refused_and_changes_nothing(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos.csv").write_text("video_id,title\nx,six seven\n")
    model = world.folder / "model" / "model.safetensors"
    content = model.read_bytes()
    vectors = {
        path: path.read_bytes() for path in (world.folder / "vectors").rglob("*.safetensors")
    }
    try:
        save_tiny_language_model(world.folder / "model", seed=1)
        assert world.add(tmp_path) == 2
    finally:
        model.write_bytes(content)
    assert "come from another language model" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in vectors} == vectors
