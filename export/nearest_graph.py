"""The candidates with the largest inner products by ONNX graphs, for GPUs: all are compared.

Comparing a million vectors is one matrix product, sooner done on a GPU than inverted lists are
followed; what takes time is finding the best of a million numbers. So the best of groups are found
first, and the best of groups of these: the best K candidates lie in the K groups whose best are
best. All in half precision, which reads and writes half as much; whoever asks fetches some more
than are wanted and scores them exactly.

Shape suffixes: B queries, N candidates, filled with zeros to whole groups, G groups of these or of
groups, M members of a group, K found, L members of their groups, D and F numbers of a vector and of
the parts behind it, W of both.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lsvcr.bundle import (
    NEAREST,
    NEAREST_FEW,
    NEAREST_ROWS_GRAPH,
    SHORTEST_PROFILE,
    NearestGraph,
)

OPSET = 18


def write_nearest_graphs(folder: Path) -> None:
    """Write the graphs that search, and the one that lays out what they search in."""
    _write(folder / NEAREST_ROWS_GRAPH, _rows_graph())
    for graph in (NEAREST, NEAREST_FEW):
        _write(folder / graph.name, _nearest_graph(graph))


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


def _nearest_graph(graph: NearestGraph) -> onnx.GraphProto:
    """All candidates compared with all queries.

    In: `query` (B, W); `candidate_0` and on, one for each part of the candidates, (N / parts, W),
    float16; `rows` (int64), how many of these are there; for each level of groups `member_1` and on
    (M, 1), int64, how far from its group's number each member stands; and for each level from 0 on
    `count_0` and on (int64), how many are looked for in it, as many as are wanted or all there are,
    unless that is given here. Out: `row` (B, K), int32, largest first, 0 for what fills up groups,
    and `part` (B, K), their inner products.
    """
    value, int64 = helper.make_tensor_value_info, TensorProto.INT64
    constants = {"all": np.array([0, -1]), "second": np.array([1]), "padding": np.array(0)}
    inputs = [value("query", TensorProto.FLOAT, ["batch", "width"]), value("rows", int64, [1])]
    for part in range(graph.parts):
        shape = ["part_candidates", "width"]
        inputs.append(value(f"candidate_{part}", TensorProto.FLOAT16, shape))
    for level, members in enumerate(graph.members, start=1):
        inputs.append(value(f"member_{level}", int64, [members, 1]))
        # Members of a group stand far from one another: a GPU reads those of many side by side.
        constants[f"in_groups_{level}"] = np.array([0, 1, members, -1])
    for level in graph.levels:
        if graph.found is None:
            inputs.append(value(f"count_{level}", int64, [1]))
        else:
            constants[f"count_{level}"] = np.array([graph.found])
    steps = [
        *_compare(graph),
        *_choose(graph),
        _step("Cast", "score_K_0", "part", to=TensorProto.FLOAT),
        _step("Less", "row_0 rows", "is_row_BK"),
        _step("Where", "is_row_BK row_0 padding", "row_BK"),
        _step("Cast", "row_BK", "row", to=TensorProto.INT32),
    ]
    read = {name for step in steps for name in step.input}
    outputs = {"row": TensorProto.INT32, "part": TensorProto.FLOAT}
    return helper.make_graph(
        steps,
        "nearest",
        inputs,
        [value(name, kind, ["batch", "found"]) for name, kind in outputs.items()],
        _initialisers({name: array for name, array in constants.items() if name in read}),
    )


def _compare(graph: NearestGraph) -> list[onnx.NodeProto]:
    """Scores of all candidates, `score_0` and on by part, and the `best_1` and on of groups."""
    steps = [_step("Cast", "query", "half_query", to=TensorProto.FLOAT16)]
    for part in range(graph.parts):
        steps.append(_step("Gemm", f"half_query candidate_{part}", f"score_{part}", transB=1))
    pooled = graph.levels[1:]
    if graph.parts > 1:  # four times as fast as a pool
        steps.append(_step("Max", " ".join(_scores(graph)), "best_1"))
        pooled = graph.levels[2:]
    for level in pooled:
        across = [graph.members[level - 1], 1]
        pool = {"kernel_shape": across, "strides": across}
        steps += [
            _step("Reshape", f"{_best(graph, level - 1)} in_groups_{level}", f"groups_{level}"),
            _step("MaxPool", f"groups_{level}", f"pool_{level}", **pool),
            _step("Reshape", f"pool_{level} all", f"best_{level}"),
        ]
    return steps


def _choose(graph: NearestGraph) -> list[onnx.NodeProto]:
    """The best of the last level, of their members the best, down to candidates: `row_0`."""
    last = graph.levels[-1]
    # In order, as `TopK` is faster so.
    steps = [_step("TopK", f"best_{last} count_{last}", f"score_K_{last} row_{last}")]
    for level in reversed(graph.levels[1:]):
        below = level - 1
        steps += [
            _step("Unsqueeze", f"row_{level} second", f"group_B1K_{level}"),
            _step("Add", f"group_B1K_{level} member_{level}", f"row_BMK_{level}"),
            _step("Reshape", f"row_BMK_{level} all", f"row_BL_{level}"),
        ]
        if below == 0 and graph.parts > 1:  # a group's members stand at one place of all parts
            for score in _scores(graph):
                steps.append(_step("GatherElements", f"{score} row_1", f"{score}_BK", axis=1))
            found = " ".join(f"{score}_BK" for score in _scores(graph))
            steps.append(_step("Concat", found, "score_BL_1", axis=1))
        else:
            members = f"{_best(graph, below)} row_BL_{level}"
            steps.append(_step("GatherElements", members, f"score_BL_{level}", axis=1))
        best = f"score_K_{below} place_{below}"
        steps.append(_step("TopK", f"score_BL_{level} count_{below}", best))
        place = f"row_BL_{level} place_{below}"
        steps.append(_step("GatherElements", place, f"row_{below}", axis=1))
    return steps


def _scores(graph: NearestGraph) -> list[str]:
    return [f"score_{part}" for part in range(graph.parts)]


def _best(graph: NearestGraph, level: int) -> str:
    """What a level of groups is made of; of candidates only where they are one part."""
    return f"best_{level}" if level else _scores(graph)[0]


def _initialisers(constants: dict[str, Any]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(content, name) for name, content in constants.items()]


def _write(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _step(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)
