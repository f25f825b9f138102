"""The candidates with the largest inner products by ONNX graphs, for GPUs: all are compared.

Comparing a million vectors is one matrix product, sooner done on a GPU than inverted lists are
followed; what takes time is finding the best of a million numbers. So the best of groups are found
first: the best K candidates lie in the K groups whose best are best. All in half precision, which
reads and writes half as much; whoever asks fetches some more than are wanted and scores them
exactly.

Shape suffixes: B queries, N candidates, filled with zeros to whole groups, G groups of these,
M members of a group, K found, L members of their groups, D and F numbers of a vector and of the
parts behind it, W of both.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lsvcr.bundle import (
    NEAREST_FEW,
    NEAREST_FEW_GRAPH,
    NEAREST_GRAPH,
    NEAREST_GROUP,
    NEAREST_ROWS_GRAPH,
    SHORTEST_PROFILE,
)

OPSET = 18


def write_nearest_graphs(folder: Path) -> None:
    """Write the graphs that search, and the one that lays out what they search in."""
    _write(folder / NEAREST_ROWS_GRAPH, _rows_graph())
    _write(folder / NEAREST_GRAPH, _nearest_graph())
    _write(folder / NEAREST_FEW_GRAPH, _nearest_graph(NEAREST_FEW))


def _rows_graph() -> onnx.GraphProto:
    """Vectors in half precision, with parts of a score beside the encoder's behind them.

    In: `vector` (N, D) and `parts` (N, F), float16, which become unit vectors; zeros stay. Out:
    `row` (N, D + F), float16.
    """
    constants = {"across": np.array([1]), "shortest": np.array(SHORTEST_PROFILE, np.float32)}
    steps = [
        _step("Cast", "parts", "part_NF", to=TensorProto.FLOAT),
        _step("ReduceL2", "part_NF across", "length_N1", keepdims=1),
        _step("Max", "length_N1 shortest", "divisor_N1"),
        _step("Div", "part_NF divisor_N1", "unit_NF"),
        _step("Concat", "vector unit_NF", "row_NW", axis=1),
        _step("Cast", "row_NW", "row", to=TensorProto.FLOAT16),
    ]
    value = helper.make_tensor_value_info
    return helper.make_graph(
        steps,
        "rows",
        [
            value("vector", TensorProto.FLOAT, ["rows", "width"]),
            value("parts", TensorProto.FLOAT16, ["rows", "parts_width"]),
        ],
        [value("row", TensorProto.FLOAT16, ["rows", "whole_width"])],
        _initialisers(constants),
    )


def _nearest_graph(count: int | None = None) -> onnx.GraphProto:
    """All candidates compared with all queries.

    In: `query` (B, W), `count` (K, int64), unless it is given here, `candidate` (N, W), float16,
    `rows` (int64), how many of these are there, and `member` (M, 1), int64, how far from its
    group's number each member stands. Out: `row` (B, K), int32, largest first, 0 for what fills up
    groups, and `part` (B, K), their inner products.
    """
    # Members of a group stand far from one another: a GPU reads those of many groups side by side.
    across = [NEAREST_GROUP, 1]
    constants = {
        "batch_1_members_groups": np.array([0, 1, NEAREST_GROUP, -1]),
        "batch_all": np.array([0, -1]),
        "second": np.array([1]),
        "padding": np.array(0),
    }
    counts = [helper.make_tensor_value_info("count", TensorProto.INT64, [1])]
    if count is not None:
        counts, constants["count"] = [], np.array([count])
    steps = [
        _step("Cast", "query", "half_query", to=TensorProto.FLOAT16),
        _step("Gemm", "half_query candidate", "score_BN", transB=1),
        _step("Reshape", "score_BN batch_1_members_groups", "score_B1MG"),
        _step("MaxPool", "score_B1MG", "best_B11G", kernel_shape=across, strides=across),
        _step("Reshape", "best_B11G batch_all", "best_BG"),
        _step("TopK", "best_BG count", "best_BK group_BK"),  # in order: that is faster
        _step("Unsqueeze", "group_BK second", "group_B1K"),
        _step("Add", "group_B1K member", "row_BMK"),
        _step("Reshape", "row_BMK batch_all", "row_BL"),
        _step("GatherElements", "score_BN row_BL", "score_BL", axis=1),
        _step("TopK", "score_BL count", "score_BK place_BK"),
        _step("Cast", "score_BK", "part", to=TensorProto.FLOAT),
        _step("GatherElements", "row_BL place_BK", "any_row_BK", axis=1),
        _step("Less", "any_row_BK rows", "is_row_BK"),
        _step("Where", "is_row_BK any_row_BK padding", "row_BK"),
        _step("Cast", "row_BK", "row", to=TensorProto.INT32),
    ]
    value = helper.make_tensor_value_info
    return helper.make_graph(
        steps,
        "nearest",
        [
            value("query", TensorProto.FLOAT, ["batch", "width"]),
            *counts,
            value("rows", TensorProto.INT64, [1]),
            value("member", TensorProto.INT64, [NEAREST_GROUP, 1]),
            value("candidate", TensorProto.FLOAT16, ["filled_candidates", "width"]),
        ],
        [
            value("row", TensorProto.INT32, ["batch", "found"]),
            value("part", TensorProto.FLOAT, ["batch", "found"]),
        ],
        _initialisers(constants),
    )


def _initialisers(constants: dict[str, Any]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(content, name) for name, content in constants.items()]


def _write(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _step(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)
