"""Whole bundles: what is in them, what `verify` refuses, and the command line."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from export.__main__ import main
from export.bundle_writer import complete_bundle
from export.candidate_index import IndexOptions
from export.parity import PARITY_TOLERANCE
from export.trained_run import TrainedRun
from export.verify import verify_bundle
from lsvcr.bundle import (
    ENCODER_WEIGHTS,
    HALF_GRAPH,
    MANIFEST,
    Bundle,
    Manifest,
    describe_files,
    load_bundle,
    load_manifest,
)
from lsvcr.errors import BundleError
from lsvcr.registry import list_versions, read_current
from service.engine.encoder_session import CpuEncoder
from tests.export.invented_run import COMMENTS, USERS, VIDEOS, invent_run, quiet

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    """A bundle to be damaged."""
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def complete(bundle_folder: Path, run: TrainedRun, folder: Path, options: IndexOptions) -> Manifest:
    """A bundle of another world for the same sequence encoder, whose graphs are reused."""
    run.recommender.sequence.load_state_dict(
        invent_run(videos=VIDEOS, comments=COMMENTS, users=1).recommender.sequence.state_dict()
    )
    folder.mkdir()
    for path in bundle_folder.glob("*.onnx"):
        shutil.copy(path, folder / path.name)
    return complete_bundle(run, folder, version="v1", created_at=NOON, options=options, step=quiet)


def test_the_manifest_says_what_the_bundle_is(run: TrainedRun, bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.version == bundle.folder.name
    assert (manifest.width, manifest.max_history, manifest.comments_per_event) == (16, 12, 2)
    assert (manifest.counts.videos, manifest.counts.comments) == (VIDEOS, COMMENTS)
    assert manifest.counts.users == USERS
    assert manifest.counts.video_events == run.training_events_V.sum()
    assert {index.kind for index in manifest.indexes.values()} == {"flat"}
    assert manifest.metrics["video"] == run.metrics["video"]
    assert manifest.config == run.config.model_dump(mode="json")
    assert {"torch", "onnx", "onnxruntime", "faiss"} <= manifest.libraries.keys()
    lengths_V = np.linalg.norm(bundle.tables["video_query_VD"][1:], axis=1)
    assert manifest.query_norm == pytest.approx(lengths_V.mean())


def test_parity_is_recorded_for_every_kind_of_history(bundle: Bundle) -> None:
    by_graph = bundle.manifest.metrics["parity"]
    assert by_graph.keys() == {"encoder.onnx", "encoder_weights.npy", "encoder_half.onnx"}
    kinds = {"empty", "one_video", "no_comments", "no_videos", "longest", "batch"}
    for graph, parity in by_graph.items():
        assert kinds <= parity.keys()
        assert len(parity) >= 17
        assert all(error <= PARITY_TOLERANCE[graph] for error in parity.values())


def test_a_model_that_half_precision_changes_has_no_such_graph(
    run: TrainedRun,
    bundle_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(PARITY_TOLERANCE, HALF_GRAPH, 1e-9)
    manifest = complete(bundle_folder, run, tmp_path / "v1", IndexOptions())
    assert manifest.metrics["parity"].keys() == {"encoder.onnx", "encoder_weights.npy"}
    assert not any("half" in name for name in manifest.files)
    assert "encoder_half.onnx differs from the model by" in caplog.text
    assert verify_bundle(tmp_path / "v1") == manifest


def test_golden_histories_are_of_every_length(bundle: Bundle) -> None:
    golden, max_history = bundle.golden, bundle.manifest.max_history
    videos_B = (golden.history.video_BI > 0).sum(1)
    comments_B = (golden.history.comment_video_BJ > 0).sum(1)
    lengths = set(zip(videos_B.tolist(), comments_B.tolist(), strict=True))
    assert len(videos_B) >= 16
    assert {(0, 0), (1, 0), (max_history, max_history)} <= lengths
    assert any(videos == 0 < comments for videos, comments in lengths)
    assert any(comments == 0 < videos for videos, comments in lengths)
    assert (golden.history.comment_BJK > 0).all(-1).any()


def test_golden_top_videos_are_the_exact_best(bundle: Bundle) -> None:
    score_BV = bundle.golden.video_preference_BD @ bundle.tables["video_candidate_VD"][1:].T
    best_BK = np.argsort(-score_BV, axis=1, kind="stable")[:, :10] + 1
    assert np.array_equal(bundle.golden.top_video_BK, best_BK)


def test_an_exported_bundle_verifies_and_is_current(bundle_folder: Path) -> None:
    assert verify_bundle(bundle_folder).version == bundle_folder.name
    current = read_current(bundle_folder.parent)
    assert current is not None and current.version == bundle_folder.name


@pytest.mark.parametrize("comments", [0, 1])
def test_one_video_is_a_whole_catalogue(bundle_folder: Path, tmp_path: Path, comments: int) -> None:
    world = invent_run(videos=1, comments=comments, users=2)
    manifest = complete(bundle_folder, world, tmp_path / "v1", IndexOptions())
    assert (manifest.counts.videos, manifest.counts.comments) == (1, comments)
    assert verify_bundle(tmp_path / "v1") == manifest
    assert load_bundle(tmp_path / "v1").golden.top_video_BK.tolist() == [[1]] * 16


def test_large_catalogues_get_inverted_lists(bundle_folder: Path, tmp_path: Path) -> None:
    world = invent_run(videos=600, comments=900, users=30)
    options = IndexOptions(flat_below=100, nlist=8, most_probed=1)
    manifest = complete(bundle_folder, world, tmp_path / "v1", options)
    for entry in manifest.indexes.values():
        assert entry.kind == "ivf_pq" and entry.nprobe is not None
        assert entry.recall_at_100 >= 0.99
    verify_bundle(tmp_path / "v1")


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: flip(folder / "encoder.onnx", 5000), r"encoder\.onnx: checksum"),
        (lambda folder: flip(folder / "index" / "video.faiss", -1), r"video\.faiss: checksum"),
        (lambda folder: (folder / "comment_head.onnx").unlink(), "is missing"),
        (lambda folder: (folder / "tables" / "w.npy").write_bytes(b"x"), "not listed"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json cannot be read"),
    ],
    ids=["flipped graph", "flipped index", "missing", "extra", "no manifest"],
)
def test_a_damaged_bundle_is_refused(
    copy: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(copy)
    with pytest.raises(BundleError, match=reason):
        verify_bundle(copy)


def reseal(folder: Path) -> None:
    """Write checksums that agree: now only its content can give a change away."""
    fields = json.loads((folder / MANIFEST).read_text())
    fields["files"] = {name: entry.model_dump() for name, entry in describe_files(folder).items()}
    (folder / MANIFEST).write_text(json.dumps(fields))


def change(path: Path, edit: Callable[[np.ndarray], None]) -> None:
    array = np.load(path)
    edit(array)
    np.save(path, array)


def swap_candidates(table_VD: np.ndarray) -> None:
    table_VD[1:] = table_VD[:0:-1].copy()


def name_unknown_video(row_BT: np.ndarray) -> None:
    row_BT[0, 0] = VIDEOS + 1


@pytest.mark.parametrize(
    ("file", "edit", "reason"),
    [
        ("tables/video_input_VD", lambda table: table.__imul__(2), "golden video_preference: off"),
        ("tables/comment_input_CD", lambda table: table.__imul__(2), "golden .*: off"),
        ("encoder_weights", lambda weight_W: weight_W.__imul__(2), "golden .*: off"),
        ("encoder_weights", lambda weight_W: weight_W.fill(np.nan), "not finite"),
        ("tables/video_candidate_VD", swap_candidates, "ranks other videos first"),
        ("golden/target_BT", name_unknown_video, "items that do not exist"),
        ("golden/video", name_unknown_video, "items that do not exist"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(
    copy: Path, file: str, edit: Callable[[np.ndarray], None], reason: str
) -> None:
    change(copy / f"{file}.npy", edit)
    reseal(copy)
    with pytest.raises(BundleError, match=reason):
        verify_bundle(copy)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layers": 3}, r"encoder_weights\.npy has \d+ numbers, not \d+"),
        ({"heads": 5}, "5 heads don't share its width 16"),
        ({"width": 8}, "width or history differs"),
        ({"history": 5}, "width or history differs"),
        ({"layers": 99}, r"encoder\.layers: Input should be less than or equal to 16"),
        ({"norm": "none"}, r"encoder\.norm: Input should be"),
    ],
)
def test_weights_of_another_encoder_are_refused(
    copy: Path, changes: dict[str, object], reason: str
) -> None:
    fields = json.loads((copy / MANIFEST).read_text())
    fields["encoder"] |= changes
    (copy / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=reason):
        verify_bundle(copy)


def test_a_bundle_without_weights_is_what_older_versions_wrote(copy: Path) -> None:
    fields = json.loads((copy / MANIFEST).read_text())
    del fields["encoder"]
    (copy / MANIFEST).write_text(json.dumps(fields))
    (copy / ENCODER_WEIGHTS).unlink()
    reseal(copy)
    bundle = load_bundle(copy)
    verify_bundle(copy)
    history = bundle.golden.history
    encoding = CpuEncoder(bundle).encode(history, with_states=True)
    np.testing.assert_allclose(
        encoding.video_preference_BD, bundle.golden.video_preference_BD, atol=1e-4
    )


def test_an_index_of_another_bundle_is_refused(copy: Path) -> None:
    shutil.copy(copy / "index" / "comment.faiss", copy / "index" / "video.faiss")
    reseal(copy)
    with pytest.raises(BundleError, match=f"number of vectors is {COMMENTS}, not {VIDEOS}"):
        verify_bundle(copy)


def test_verify_and_list_by_command(
    bundle_folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(bundle_folder)]) == 0
    printed = capsys.readouterr().out
    assert f"{bundle_folder.name}: {VIDEOS} videos, {COMMENTS} comments" in printed
    assert "video index: flat, recall@100 1.0000" in printed
    assert main(["list", "--registry", str(bundle_folder.parent)]) == 0
    assert f"* {bundle_folder.name}" in capsys.readouterr().out
    flip(copy / "encoder.onnx", 5000)
    assert main(["verify", str(copy)]) == 2
    assert capsys.readouterr().err == (
        "error: encoder.onnx: checksum differs from the manifest's\n"
    )


@pytest.mark.parametrize(
    "arguments", [[], ["--run", "run"], ["--run", "r", "--registry", "d", "--keep", "2"]]
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


def test_a_folder_that_is_no_run_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(tmp_path), "--registry", str(tmp_path / "registry")]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert not (tmp_path / "registry").exists()


def test_versions_listed_are_those_of_the_registry(bundle_folder: Path) -> None:
    assert list_versions(bundle_folder.parent) == [bundle_folder.name]
    assert load_manifest(bundle_folder).format == 1
