from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from export.encoder_graph import OPSET, PLAIN_OPSET, EncoderGraph, check_graph
from export.encoder_weights import lay_out_weights, shape_of
from export.item_vectors import build_tables
from export.parity import Answers, BundleGraphs, answer_by_model, invent_histories, measure_parity
from export.plain_encoder import PlainCommentHead, PlainEncoderGraph
from export.trained_run import TrainedRun
from lsvcr.bundle import (
    ENCODER_GRAPH,
    ENCODER_TABLES,
    ENCODER_WEIGHTS,
    GOLDEN_TOLERANCE,
    HALF_GRAPH,
    HALF_VIDEOS_GRAPH,
    HEAD_GRAPH,
    ONE_TARGET_HEAD_GRAPH,
    TABLES,
    load_bundle,
)
from lsvcr.catalogue import load_array
from lsvcr.encoder import Encoder
from lsvcr.errors import BundleError
from lsvcr.history import NEVER, HistoryBatch
from tests.export.invented_run import COMMENTS, CONFIG, VIDEOS, invent_run
from training.encoder import States, unit

SETTINGS = [
    "model.pool=additive",
    "model.pool=last",
    "model.mix=false",
    "model.norm=post",
    "model.encoder_kv=input",
    "model.heads=4",
    "model.encoder_layers=1",
    "model.feedforward=19",
]


@pytest.fixture(scope="module", params=[ENCODER_GRAPH, ENCODER_WEIGHTS])
def graphs(bundle_folder: Path, run: TrainedRun, request: pytest.FixtureRequest) -> BundleGraphs:
    tables = {
        name: load_array(bundle_folder / "tables" / f"{name}.npy", np.float32, dimensions=2)
        for name in TABLES
    }
    shape = shape_of(run.config.model) if request.param == ENCODER_WEIGHTS else None
    return BundleGraphs(bundle_folder, tables, request.param, shape)


def windows(run: TrainedRun, users: int) -> HistoryBatch:
    user_B = np.arange(users) % run.users
    cut_B = np.full(users, NEVER)
    return run.timelines.windows_before(user_B, cut_B, run.config.model.max_history)


def model_answers(run: TrainedRun, history: HistoryBatch, target_BT: np.ndarray) -> Answers:
    popular_comment_V = run.catalogue.popular_comment()
    return answer_by_model(run.recommender, popular_comment_V, history, target_BT)


@pytest.mark.parametrize("users", [1, 2, 7, 64])
@pytest.mark.parametrize("targets", [1, 5])
def test_any_batch_gives_the_models_answers(
    run: TrainedRun, graphs: BundleGraphs, users: int, targets: int
) -> None:
    history = windows(run, users)
    shape = (users, targets)
    target_BT = np.random.default_rng(users).integers(1, run.catalogue.video_count, shape)
    expected = model_answers(run, history, target_BT)
    assert graphs.answer(history, target_BT).difference(expected) < 1e-5


@pytest.mark.parametrize("setting", SETTINGS)
def test_few_plain_steps_compute_what_the_model_does(setting: str) -> None:
    run, history, tables = world_with(setting)
    with torch.no_grad():
        inputs = [
            torch.from_numpy(array)
            for array in (*history.arrays().values(), *(tables[name] for name in ENCODER_TABLES))
        ]
        sequence = run.recommender.sequence
        whole, plain = EncoderGraph(sequence)(*inputs), PlainEncoderGraph(sequence)(*inputs)
    is_slot_BJ = torch.from_numpy(history.comment_last_BJ != NEVER)
    for one, other in ((whole[0], plain[0]), (whole[1][is_slot_BJ], plain[1][is_slot_BJ])):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(whole[2], plain[2], atol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("targets", [1, 7])
def test_a_head_without_keys_and_values_prefers_what_the_models_does(
    setting: str, targets: int
) -> None:
    run, history, _ = world_with(setting)
    sequence, random = run.recommender.sequence, torch.Generator().manual_seed(3)
    state_BJD, target_BTD = (
        torch.randn(
            (len(history.comment_last_BJ), extent, run.config.model.width), generator=random
        )
        for extent in (history.comment_last_BJ.shape[1], targets)
    )
    with torch.no_grad():
        for bias in (linear.bias for linear in sequence.read_out.children()):
            bias.normal_(generator=random)  # they begin as zeros
        last_BJ = torch.from_numpy(history.comment_last_BJ)
        states = States(state_BJD[:, :0], state_BJD, last_BJ[:, :0], last_BJ)
        cut_BT = torch.full((len(last_BJ), targets), NEVER)
        preference_BTD, share_BTJ = sequence.comment_preferences(states, target_BTD, cut_BT)
        found = PlainCommentHead(sequence)(state_BJD, last_BJ, target_BTD)
    assert torch.allclose(found[0], unit(preference_BTD), atol=1e-5)
    assert torch.allclose(found[1], share_BTJ, atol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_loops_compute_what_the_model_does(setting: str, lanes: int) -> None:
    """With every set of instructions that this processor has."""
    run, history, tables = world_with(setting)
    shape = shape_of(run.config.model)
    assert shape is not None
    encoder = Encoder(shape, lay_out_weights(run.recommender.sequence), tables, lanes=lanes)
    users, slots = history.video_BI.shape
    preference_BD = np.zeros((users, shape.width), np.float32)
    share_BI = np.zeros((users, slots), np.float32)
    state_BJD = np.zeros((*history.comment_last_BJ.shape, shape.width), np.float32)
    encoder.encode(
        history,
        np.random.default_rng(1).permutation(users),
        preference_BD=preference_BD,
        share_BI=share_BI,
        state_BJD=state_BJD,
    )
    with torch.no_grad():
        inputs = [*history.arrays().values(), *(tables[name] for name in ENCODER_TABLES)]
        expected = EncoderGraph(run.recommender.sequence)(*map(torch.from_numpy, inputs))
    is_slot_BJ = history.comment_last_BJ != NEVER
    np.testing.assert_allclose(preference_BD, expected[0], atol=1e-5)
    np.testing.assert_allclose(state_BJD[is_slot_BJ], expected[1][is_slot_BJ], atol=2e-5)
    np.testing.assert_allclose(share_BI, expected[2], atol=1e-5)


def world_with(setting: str) -> tuple[TrainedRun, HistoryBatch, dict[str, np.ndarray]]:
    """An untrained model of some shape, histories, and its tables."""
    run = invent_run(videos=VIDEOS, comments=COMMENTS, users=9, config=CONFIG.override([setting]))
    tables = build_tables(run.recommender, run.catalogue.popular_comment())
    return run, windows(run, 9), tables


@pytest.mark.parametrize("users", [1, 9])
def test_half_precision_stays_within_what_golden_outputs_allow(
    run: TrainedRun, bundle_folder: Path, users: int
) -> None:
    tables = load_bundle(bundle_folder).tables
    history, target_BT = windows(run, users), np.ones((users, 3), np.int32)
    half = BundleGraphs(bundle_folder, tables, HALF_GRAPH).answer(history, target_BT)
    assert half.difference(model_answers(run, history, target_BT)) < GOLDEN_TOLERANCE / 2
    assert half.video_preference_BD.dtype == half.video_share_BI.dtype == np.float32


@pytest.mark.parametrize(("videos", "comments"), [(0, 0), (1, 0), (0, 1), (1, 1), (12, 0), (0, 12)])
@pytest.mark.parametrize("users", [1, 3])
def test_few_or_no_events_give_the_models_answers(
    run: TrainedRun, graphs: BundleGraphs, users: int, videos: int, comments: int
) -> None:
    user_B = np.arange(users)
    timelines = run.timelines
    video_from_B, comment_from_B = timelines.video_start_U1[user_B], timelines.comment_start_U1
    comment_from_B = comment_from_B[user_B]
    history = timelines.windows(
        user_B,
        video_from_B,
        np.minimum(video_from_B + videos, timelines.video_start_U1[user_B + 1]),
        comment_from_B,
        np.minimum(comment_from_B + comments, timelines.comment_start_U1[user_B + 1]),
    )
    assert (history.video_BI.shape[1] == 1) == (videos == 0)
    target_BT = np.ones((users, 2), np.int32)
    expected = model_answers(run, history, target_BT)
    assert graphs.answer(history, target_BT).difference(expected) < 1e-5


def test_padding_changes_nothing(run: TrainedRun, graphs: BundleGraphs) -> None:
    history = windows(run, 3)
    padded = history.padded(rows=8, slots=run.config.model.max_history + 1)
    answers = graphs.answer(history, np.ones((3, 2), np.int32))
    of_padded = graphs.answer(padded, np.ones((8, 2), np.int32))
    for name in ("video_preference_BD", "comment_preference_BTD"):
        assert np.abs(getattr(of_padded, name)[:3] - getattr(answers, name)).max() < 1e-6
    slots = answers.video_share_BI.shape[1]
    assert np.abs(of_padded.video_share_BI[:3, :slots] - answers.video_share_BI).max() < 1e-6
    assert (of_padded.video_share_BI[:3, slots:] == 0).all()


def test_preferences_are_unit_vectors_and_shares_sum_to_one(
    run: TrainedRun, graphs: BundleGraphs
) -> None:
    answers = graphs.answer(windows(run, 5), np.ones((5, 2), np.int32))
    assert np.allclose(np.linalg.norm(answers.video_preference_BD, axis=-1), 1, atol=1e-5)
    assert np.allclose(np.linalg.norm(answers.comment_preference_BTD, axis=-1), 1, atol=1e-5)
    assert np.allclose(answers.video_share_BI.sum(-1), 1, atol=1e-5)
    assert np.allclose(answers.comment_share_BTJ.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", [ENCODER_GRAPH, HALF_GRAPH, HEAD_GRAPH])
def test_graphs_have_named_dynamic_dimensions_and_no_notes(bundle_folder: Path, name: str) -> None:
    model = onnx.load(bundle_folder / name)
    opset = PLAIN_OPSET if name == HALF_GRAPH else OPSET
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    dimensions = {
        tensor.name: [
            axis.dim_param or axis.dim_value for axis in tensor.type.tensor_type.shape.dim
        ]
        for tensor in (*model.graph.input, *model.graph.output)
    }
    expected = {
        ENCODER_GRAPH: {
            "video": ["batch", "video_slots"],
            "video_order": ["batch", "video_slots"],
            "video_cut": ["batch", "video_slots"],
            "comment_video": ["batch", "comment_slots"],
            "comment": ["batch", "comment_slots", 2],
            "comment_last": ["batch", "comment_slots"],
            "comment_cut": ["batch", "comment_slots"],
            "video_input_VD": ["videos", 16],
            "comment_video_input_VD": ["videos", 16],
            "comment_input_CD": ["comments", 16],
            "video_preference": ["batch", 16],
            "comment_state": ["batch", "comment_slots", 16],
            "video_share": ["batch", "video_slots"],
        },
        HEAD_GRAPH: {
            "comment_state": ["batch", "comment_slots", 16],
            "comment_last": ["batch", "comment_slots"],
            "target": ["batch", "targets", 16],
            "comment_preference": ["batch", "targets", 16],
            "comment_share": ["batch", "targets", "comment_slots"],
        },
    }
    assert dimensions == expected[HEAD_GRAPH if name == HEAD_GRAPH else ENCODER_GRAPH]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_the_graph_for_videos_is_a_part_of_the_whole_one(
    run: TrainedRun, bundle_folder: Path
) -> None:
    """And a smaller one; its answers are the same, bit by bit."""
    whole, videos = (
        ort.InferenceSession(str(bundle_folder / name), providers=["CPUExecutionProvider"])
        for name in (HALF_GRAPH, HALF_VIDEOS_GRAPH)
    )
    bundle = load_bundle(bundle_folder)
    tables = {name: bundle.tables[name] for name in ENCODER_TABLES}
    feeds = {**windows(run, 5).arrays(), **tables}
    outputs = ["video_preference", "video_share"]
    for actual, expected in zip(videos.run(outputs, feeds), whole.run(outputs, feeds), strict=True):
        np.testing.assert_array_equal(actual, expected)
    names = HALF_VIDEOS_GRAPH, HALF_GRAPH
    sizes = [len(onnx.load(bundle_folder / name).graph.node) for name in names]
    assert sizes[0] < sizes[1]


def test_the_head_for_one_target_is_the_head(run: TrainedRun, bundle_folder: Path) -> None:
    """Whether the target is a video, the user's own preference, or something of both."""
    whole, one = (
        ort.InferenceSession(str(bundle_folder / name), providers=["CPUExecutionProvider"])
        for name in (HEAD_GRAPH, ONE_TARGET_HEAD_GRAPH)
    )
    random, width = np.random.default_rng(3), run.config.model.width
    state_BJD = random.standard_normal((3, 5, width), np.float32)
    last_BJ = np.array([[0, 3, NEVER, NEVER, NEVER], [1, 2, 3, 4, 5], [NEVER] * 5], np.int32)
    preference_BD, video_BD = random.standard_normal((2, 3, width), np.float32)
    own_B1 = np.array([[0.0], [1.5], [-0.5]], np.float32)
    video_BD[1] = 0
    read = {"comment_state": state_BJD, "comment_last": last_BJ}
    target_B1D = (video_BD + own_B1 * preference_BD)[:, None]
    outputs = ["comment_preference", "comment_share"]
    expected = whole.run(outputs, {**read, "target": target_B1D})
    aim_BX = np.column_stack([video_BD, own_B1])
    actual = one.run(outputs, {**read, "video_preference": preference_BD, "aim": aim_BX})
    for array, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(array, wanted, atol=1e-6)
    assert [one.name for one in one.get_inputs() if "comment" not in one.name] == [
        "video_preference",
        "aim",
    ]


def test_graphs_open_without_a_warning(
    bundle_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graphs = (ENCODER_GRAPH, HALF_GRAPH, HALF_VIDEOS_GRAPH, HEAD_GRAPH, ONE_TARGET_HEAD_GRAPH)
    for name in graphs:
        ort.InferenceSession(str(bundle_folder / name), providers=["CPUExecutionProvider"])
    assert capfd.readouterr().err == ""


def test_fixed_shapes_are_an_override_of_the_same_file(
    run: TrainedRun, bundle_folder: Path, graphs: BundleGraphs
) -> None:
    slots = run.config.model.max_history + 1
    options = ort.SessionOptions()
    for name, extent in {"batch": 4, "video_slots": slots, "comment_slots": slots}.items():
        options.add_free_dimension_override_by_name(name, extent)
    fixed = ort.InferenceSession(str(bundle_folder / ENCODER_GRAPH), options)
    assert fixed.get_inputs()[0].shape == [4, slots]
    bundle = load_bundle(bundle_folder)
    history = windows(run, 4).padded(rows=4, slots=slots)
    feeds = {
        **history.arrays(),
        **{name: bundle.tables[name] for name in TABLES if "_input_" in name},
    }
    preference_BD = fixed.run(["video_preference"], feeds)[0]
    expected = graphs.answer(history, np.ones((4, 1), np.int32)).video_preference_BD
    assert np.abs(preference_BD - expected).max() < 1e-6


def test_parity_refuses_a_model_that_moved(run: TrainedRun, graphs: BundleGraphs) -> None:
    samples = invent_histories(run.catalogue, max_history=12, comments_per_event=2, seed=1)
    popular_comment_V = run.catalogue.popular_comment()
    parity = measure_parity(run.recommender, popular_comment_V, graphs, samples)
    assert set(parity) == {*samples.kinds, "batch"}
    bias = run.recommender.sequence.video.merge.bias
    with torch.no_grad():
        bias[0] += 0.01
        try:
            with pytest.raises(BundleError, match="differs from the model by"):
                measure_parity(run.recommender, popular_comment_V, graphs, samples)
        finally:
            bias[0] -= 0.01


def test_a_difference_that_is_not_a_number_is_not_lost() -> None:
    zero = np.zeros((1, 1), np.float32)
    broken = np.full((1, 1), np.nan, np.float32)
    sound = Answers(zero, zero, zero, zero)
    assert np.isnan(Answers(zero, zero, broken, zero).difference(sound))


def test_a_graph_with_weights_in_another_file_is_refused(
    bundle_folder: Path, tmp_path: Path
) -> None:
    model = onnx.load(bundle_folder / HEAD_GRAPH)
    onnx.save(
        model, tmp_path / "graph.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    with pytest.raises(BundleError, match="lies in another file"):
        check_graph(tmp_path / "graph.onnx")


def test_a_graph_with_a_table_in_it_is_refused(tmp_path: Path) -> None:
    table = helper.make_tensor("table", TensorProto.FLOAT, [100], [0.0] * 100)
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [100])
    graph = helper.make_graph([helper.make_node("Identity", ["table"], ["out"])], "g", [], [output])
    graph.initializer.append(table)
    onnx.save(helper.make_model(graph), tmp_path / "graph.onnx")
    check_graph(tmp_path / "graph.onnx")
    with pytest.raises(BundleError, match="constant table is larger"):
        check_graph(tmp_path / "graph.onnx", weight_bytes=100)


def test_what_is_not_a_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="not a valid ONNX graph"):
        check_graph(tmp_path / "graph.onnx")
