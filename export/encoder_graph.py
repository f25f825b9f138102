"""The trained sequence encoder and its comment head as ONNX graphs.

Shape suffixes: B batch, I and J slots of the video and comment side, K comments of a comment
event, T target videos, V video rows, C comment rows, D model width.

Batch and slots are symbolic: `encoder.onnx` is the model as it was trained; `encoder_half.onnx`
computes the same faster on a GPU, in half precision and, with free dimensions overridden, in fixed
shapes. `encoder_half_videos.onnx` is the part of it that video preferences need. The tables that
histories look up are inputs: they are neither copied into the graph nor moved to a GPU more than
once.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.export import Dim

from export.plain_encoder import PlainCommentHead, PlainEncoderGraph
from lsvcr.bundle import (
    ENCODER_GRAPH,
    HALF_GRAPH,
    HALF_VIDEOS_GRAPH,
    HEAD_GRAPH,
    ONE_TARGET_HEAD_GRAPH,
)
from lsvcr.errors import BundleError
from lsvcr.history import NEVER
from training.encoder import SequenceEncoder, unit

OPSET = 18
PLAIN_OPSET = 20
"""Has GELU as one operator, which is faster than five."""

BATCH, VIDEO_SLOTS, COMMENT_SLOTS = Dim("batch"), Dim("video_slots"), Dim("comment_slots")
ENCODER_DIMENSIONS = {
    "video": {0: BATCH, 1: VIDEO_SLOTS},
    "video_order": {0: BATCH, 1: VIDEO_SLOTS},
    "video_cut": {0: BATCH, 1: VIDEO_SLOTS},
    "comment_video": {0: BATCH, 1: COMMENT_SLOTS},
    "comment": {0: BATCH, 1: COMMENT_SLOTS},
    "comment_last": {0: BATCH, 1: COMMENT_SLOTS},
    "comment_cut": {0: BATCH, 1: COMMENT_SLOTS},
    "video_input_VD": {0: Dim("videos")},
    "comment_video_input_VD": {0: Dim("videos")},
    "comment_input_CD": {0: Dim("comments")},
}
HEAD_DIMENSIONS = {
    "comment_state": {0: BATCH, 1: COMMENT_SLOTS},
    "comment_last": {0: BATCH, 1: COMMENT_SLOTS},
    "target": {0: BATCH, 1: Dim("targets")},
}


class EncoderGraph(nn.Module):
    """Histories and tables to the video preference and what the comment head reads."""

    def __init__(self, sequence: SequenceEncoder) -> None:
        super().__init__()
        self.sequence = sequence

    def forward(
        self,
        video: Tensor,
        video_order: Tensor,
        video_cut: Tensor,
        comment_video: Tensor,
        comment: Tensor,
        comment_last: Tensor,
        comment_cut: Tensor,
        video_input_VD: Tensor,
        comment_video_input_VD: Tensor,
        comment_input_CD: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs as in `lsvcr.history.HistoryBatch.arrays`, then tables.

        Returns:
            video_preference_BD (unit vectors), comment_state_BJD, video_share_BI.
        """
        count_BJ1 = (comment > 0).sum(-1, keepdim=True).clamp(min=1)
        comment_text_BJD = F.embedding(comment, comment_input_CD).sum(-2) / count_BJ1
        states = self.sequence(
            F.embedding(video, video_input_VD),
            F.embedding(comment_video, comment_video_input_VD) + comment_text_BJD,
            video_order,
            video_cut,
            comment_last,
            comment_cut,
        )
        preference_B1D, share_B1I = self.sequence.video_preferences(states, _now(video[:, :1]))
        return unit(preference_B1D.squeeze(1)), states.comment_BJD, share_B1I.squeeze(1)


def export_graphs(sequence: SequenceEncoder, folder: Path, *, comments_per_event: int) -> None:
    """Write all graphs into a folder.

    Args:
        sequence: In evaluation mode, on the CPU.
        folder: Must exist.
        comments_per_event: K, the one fixed extent of a history.

    Raises:
        BundleError: If a graph isn't valid, isn't dynamic, or keeps its weights elsewhere.
    """
    width = sequence.read_out_norm.normalized_shape[0]
    encoder_example = (
        *(_ints(2, slots) for slots in (3, 3, 3, 4)),
        _ints(2, 4, comments_per_event),
        *(_ints(2, 4) for _ in range(2)),
        *(torch.zeros(rows, width) for rows in (5, 5, 6)),
    )
    head_example = (torch.zeros(2, 4, width), _ints(2, 4), torch.zeros(2, 3, width))
    half = PlainEncoderGraph(sequence, torch.float16)
    for graph, name, opset in (
        (EncoderGraph(sequence), ENCODER_GRAPH, OPSET),
        (half, HALF_GRAPH, PLAIN_OPSET),
    ):
        _export(
            graph,
            encoder_example,
            ENCODER_DIMENSIONS,
            ["video_preference", "comment_state", "video_share"],
            folder / name,
            opset,
        )
    onnx.utils.extract_model(
        folder / HALF_GRAPH,
        folder / HALF_VIDEOS_GRAPH,
        list(ENCODER_DIMENSIONS),
        ["video_preference", "video_share"],
    )
    check_graph(folder / HALF_VIDEOS_GRAPH)
    _export(
        PlainCommentHead(sequence),
        head_example,
        HEAD_DIMENSIONS,
        ["comment_preference", "comment_share"],
        folder / HEAD_GRAPH,
        OPSET,
    )
    onnx.save(_with_one_target(onnx.load(folder / HEAD_GRAPH)), folder / ONE_TARGET_HEAD_GRAPH)
    check_graph(folder / ONE_TARGET_HEAD_GRAPH)


def _with_one_target(head: onnx.ModelProto) -> onnx.ModelProto:
    """The comment head for one target of each user, as a GPU reads it behind the encoder.

    In, instead of `target`: `video_preference` (B, D) and `aim` (B, D + 1), a vector and behind it
    how much of the preference comes to it. Out: as the head's, with T = 1.
    """
    graph = head.graph
    target = next(one for one in graph.input if one.name == "target")
    width = target.type.tensor_type.shape.dim[2].dim_value
    graph.input.remove(target)
    for name, extent in (("video_preference", width), ("aim", width + 1)):
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH.__name__, extent])
        graph.input.append(info)
    steps = [
        helper.make_node("Split", ["aim", "aim.sizes"], ["aim.given_BD", "aim.own_B1"], axis=1),
        helper.make_node("Mul", ["aim.own_B1", "video_preference"], ["aim.own_BD"]),
        helper.make_node("Add", ["aim.given_BD", "aim.own_BD"], ["aim.whole_BD"]),
        helper.make_node("Unsqueeze", ["aim.whole_BD", "aim.second"], ["target"]),
    ]
    for place, step in enumerate(steps):
        graph.node.insert(place, step)
    for name, content in {"aim.sizes": [width, 1], "aim.second": [1]}.items():
        graph.initializer.append(numpy_helper.from_array(np.array(content, np.int64), name))
    for output in graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = 1
    graph.ClearField("value_info")
    return head


def check_graph(path: Path, weight_bytes: int | None = None) -> None:
    """Refuse a graph that is invalid or reads other files; bound its constants if asked to.

    Args:
        path: The ONNX file.
        weight_bytes: What all of the encoder's weights take: anything larger has tables in it.

    Raises:
        BundleError: Naming the graph and what is wrong with it.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        constants = _constants(model.graph)
        outside = [tensor.name for tensor in constants if tensor.external_data]
        if outside:
            raise BundleError(f"{path.name}: {outside[0]} lies in another file")
        onnx.checker.check_model(model, full_check=True)
    except BundleError:
        raise
    except Exception as error:  # protobuf, checker and shape inference have classes of their own
        raise BundleError(f"{path.name} is not a valid ONNX graph: {error}") from error
    if weight_bytes is not None:
        for tensor in constants:
            if tensor.ByteSize() > weight_bytes:
                raise BundleError(f"{path.name}: constant {tensor.name} is larger than the encoder")


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    dimensions: dict[str, dict[int, Dim]],
    outputs: list[str],
    path: Path,
    opset: int,
) -> None:
    with _quiet_exporter():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=list(dimensions),
            output_names=outputs,
            dynamic_shapes=dimensions,
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # it is with dynamo=True
    model = program.model_proto
    _drop_remarks(model.graph)
    onnx.save(model, path)
    check_graph(path, sum(weight.nbytes for weight in module.parameters()))
    _check_dynamic(path, dimensions)


def _drop_remarks(graph: onnx.GraphProto) -> None:
    """Drop the exporter's notes (module names, source lines): they outweigh small weights."""
    graph.ClearField("metadata_props")
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _check_dynamic(path: Path, dimensions: dict[str, dict[int, Dim]]) -> None:
    """Make sure that no extent of an input was fixed to that of the example."""
    for tensor in onnx.load(path).graph.input:
        extents = tensor.type.tensor_type.shape.dim
        for axis, dimension in dimensions[tensor.name].items():
            if extents[axis].dim_param != dimension.__name__:
                raise BundleError(f"{path.name}: {tensor.name} is fixed along axis {axis}")


def _constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    return [
        *graph.initializer,
        *(attribute.t for attribute in attributes if attribute.HasField("t")),
    ]


def _now(like_BT: Tensor) -> Tensor:
    return torch.full_like(like_BT, NEVER, dtype=torch.int32)


def _ints(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide what the exporter says about its own internals: we check the result instead."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
