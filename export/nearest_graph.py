"""The candidates with the largest inner products as an ONNX graph, for GPUs: all are compared.

Comparing a million vectors is one matrix product, sooner done on a GPU than inverted lists are
followed; what takes time is finding the best of a million numbers. So the best of groups are found
first: the best K candidates lie in the K groups whose best are best. All in half precision, which
reads and writes half as much; whoever asks fetches some more than are wanted and scores them
exactly.

Shape suffixes: B queries, N candidates, filled with zeros to whole groups, G groups of these,
M members of a group, K found, L members of their groups, W numbers of a vector.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lsvcr.bundle import NEAREST_GRAPH, NEAREST_GROUP

OPSET = 18


def write_nearest_graph(folder: Path) -> None:
    """Write `NEAREST_GRAPH`, whose inputs are queries, the table, and how many are wanted.

    In: `query` (B, W), `count` (K, int64), `candidate` (N, W), float16, and `rows` (int64), how
    many of these are there; W may be any, so that parts of a score beside the encoder's can stand
    behind the vectors. Out: `row` (B, K), int32, largest first, 0 for what fills the last group,
    and `part` (B, K), their inner products.
    """
    group = [NEAREST_GROUP]
    constants = {
        "batch_1_all": np.array([0, 1, -1]),
        "batch_all": np.array([0, -1]),
        "batch_all_group": np.array([0, -1, NEAREST_GROUP]),
        "last": np.array([-1]),
        "group": np.array(NEAREST_GROUP),
        "padding": np.array(0),
    }
    steps = [
        _step("Cast", "query", "half_query", to=TensorProto.FLOAT16),
        _step("Gemm", "half_query candidate", "score_BN", transB=1),
        # as pooling, which is twice as fast there as a maximum over an axis
        _step("Reshape", "score_BN batch_1_all", "score_B1N"),
        _step("MaxPool", "score_B1N", "best_B1G", kernel_shape=group, strides=group),
        _step("Reshape", "best_B1G batch_all", "best_BG"),
        _step("TopK", "best_BG count", "best_BK group_BK", sorted=0),
        _step("Unsqueeze", "group_BK last", "group_BK1"),
        _step("Reshape", "score_BN batch_all_group", "score_BGM"),
        _step("GatherND", "score_BGM group_BK1", "score_BKM", batch_dims=1),
        _step("Reshape", "score_BKM batch_all", "score_BL"),
        _step("TopK", "score_BL count", "score_BK place_BK"),
        _step("Cast", "score_BK", "part", to=TensorProto.FLOAT),
        _step("Div", "place_BK group", "which_BK"),
        _step("Mul", "which_BK group", "begin_BK"),
        _step("Sub", "place_BK begin_BK", "member_BK"),
        _step("GatherElements", "group_BK which_BK", "own_group_BK", axis=1),
        _step("Mul", "own_group_BK group", "first_BK"),
        _step("Add", "first_BK member_BK", "any_row_BK"),
        _step("Less", "any_row_BK rows", "is_row_BK"),
        _step("Where", "is_row_BK any_row_BK padding", "row_BK"),
        _step("Cast", "row_BK", "row", to=TensorProto.INT32),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        steps,
        "nearest",
        [
            value("query", TensorProto.FLOAT, ["batch", "width"]),
            value("count", TensorProto.INT64, [1]),
            value("rows", TensorProto.INT64, [1]),
            value("candidate", TensorProto.FLOAT16, ["filled_candidates", "width"]),
        ],
        [
            value("row", TensorProto.INT32, ["batch", "found"]),
            value("part", TensorProto.FLOAT, ["batch", "found"]),
        ],
        [numpy_helper.from_array(content, name) for name, content in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / NEAREST_GRAPH)


def _step(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)
