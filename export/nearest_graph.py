"""The candidates nearest to queries as an ONNX graph, for GPUs: all are compared.

Comparing a million vectors is one matrix product, sooner done on a GPU than inverted lists are
followed; what takes time is finding the best of a million numbers. So the best of groups are found
first: the best R candidates lie in the R groups whose best are best. All are compared in half
precision, which reads and writes half as much; those found are compared again in single precision.

Shape suffixes: B queries, V candidates, N of them in half precision, filled with zeros to whole
groups, G groups of these, M members of a group, R found roughly, L members of their groups, K found
at last, D width.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lsvcr.bundle import NEAREST_GRAPH, NEAREST_GROUP

OPSET = 18


def write_nearest_graph(folder: Path) -> None:
    """Write `NEAREST_GRAPH`, whose inputs are queries, both tables, and how many are wanted.

    In: `query` (B, D), `count` and `rough_count` (K and R, int64), `candidate` (V, D),
    `half_candidate` (N, D) and `rows` (V, int64); D may be any, so that parts of a score beside the
    inner product can stand behind the vectors. Out: `row` (B, K), int32, nearest first, 0 for
    what fills the last group, and `part` (B, K), their inner products.
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
        _step("Gemm", "half_query half_candidate", "score_BN", transB=1),
        # as pooling, which is twice as fast there as a maximum over an axis
        _step("Reshape", "score_BN batch_1_all", "score_B1N"),
        _step("MaxPool", "score_B1N", "best_B1G", kernel_shape=group, strides=group),
        _step("Reshape", "best_B1G batch_all", "best_BG"),
        _step("TopK", "best_BG rough_count", "best_BR group_BR", sorted=0),
        _step("Unsqueeze", "group_BR last", "group_BR1"),
        _step("Reshape", "score_BN batch_all_group", "score_BGM"),
        _step("GatherND", "score_BGM group_BR1", "score_BRM", batch_dims=1),
        _step("Reshape", "score_BRM batch_all", "score_BL"),
        _step("TopK", "score_BL rough_count", "score_BR place_BR", sorted=0),
        _step("Div", "place_BR group", "which_BR"),
        _step("Mul", "which_BR group", "begin_BR"),
        _step("Sub", "place_BR begin_BR", "member_BR"),
        _step("GatherElements", "group_BR which_BR", "best_group_BR", axis=1),
        _step("Mul", "best_group_BR group", "first_BR"),
        _step("Add", "first_BR member_BR", "any_row_BR"),
        _step("Less", "any_row_BR rows", "is_row_BR"),
        _step("Where", "is_row_BR any_row_BR padding", "row_BR"),
        _step("Gather", "candidate row_BR", "near_BRD", axis=0),
        _step("Unsqueeze", "query last", "query_BD1"),
        _step("MatMul", "near_BRD query_BD1", "part_BR1"),
        _step("Squeeze", "part_BR1 last", "part_BR"),
        _step("TopK", "part_BR count", "part order_BK"),
        _step("GatherElements", "row_BR order_BK", "row_BK", axis=1),
        _step("Cast", "row_BK", "row", to=TensorProto.INT32),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        steps,
        "nearest",
        [
            value("query", TensorProto.FLOAT, ["batch", "width"]),
            value("count", TensorProto.INT64, [1]),
            value("rough_count", TensorProto.INT64, [1]),
            value("rows", TensorProto.INT64, [1]),
            value("candidate", TensorProto.FLOAT, ["candidates", "width"]),
            value("half_candidate", TensorProto.FLOAT16, ["filled_candidates", "width"]),
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
