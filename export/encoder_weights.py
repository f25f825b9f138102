"""The encoder's weights in the order in which a CPU's loops read them (`lsvcr.encoder`).

Products stand as bias and panels: outputs in sixteens, filled up with zeros, and of each panel one
input's weights after the other. Shape suffixes: W all weights, D inputs, E outputs, X any.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.plain_encoder import PlainEncoderGraph, PlainLayer, PlainSide
from lsvcr.encoder import MOST_LAYERS, PANEL, EncoderShape
from training.config import ModelConfig
from training.encoder import SequenceEncoder

FloatArray = NDArray[np.float32]


def shape_of(model: ModelConfig) -> EncoderShape | None:
    """What `_encoder.c` has to know of an encoder; None of one with more layers than it takes."""
    if model.encoder_layers > MOST_LAYERS:
        return None
    return EncoderShape(
        width=model.width,
        history=model.max_history,
        heads=model.heads,
        feedforward=model.feedforward,
        layers=model.encoder_layers,
        norm=model.norm,
        encoder_kv=model.encoder_kv,
        mix=model.mix,
        pool=model.pool,
    )


def lay_out_weights(sequence: SequenceEncoder) -> FloatArray:
    """All weights, flat: the video side, the comment side, the pool."""
    graph = PlainEncoderGraph(sequence)
    parts = [*_side(graph.video), *_side(graph.comment)]
    if not sequence.reads_last:  # what is added to all scores alike is left out
        score_X = _numbers(sequence.pool_score.weight)
        parts += [*_product(sequence.pool_hidden), *_norm(sequence.pool_norm), score_X]
    return np.concatenate(parts)


def _side(side: PlainSide) -> list[FloatArray]:
    trained = side.side
    parts = [_numbers(trained.position_LD), _numbers(trained.start_D), *_norm(trained.input_norm)]
    for layer in side.layers:
        parts += _layer(layer)
    if side.mix is not None:
        parts += [*_layer(side.mix), *_product(trained.merge)]
    return parts


def _layer(layer: nn.Module) -> list[FloatArray]:
    assert isinstance(layer, PlainLayer)
    return [
        *([] if layer.query is None else _product(layer.query)),
        *_product(layer.read),
        *_product(layer.output),
        *([] if layer.after is None else _norm(layer.after)),
        *_product(layer.feedforward[0]),
        *_product(layer.feedforward[2]),
        *_norm(layer.feedforward_norm),
    ]


def _product(linear: nn.Module) -> list[FloatArray]:
    assert isinstance(linear, nn.Linear)
    outputs, inputs = linear.weight.shape
    panels = -(-outputs // PANEL)
    bias_E = np.zeros(panels * PANEL, np.float32)
    weight_DE = np.zeros((inputs, panels * PANEL), np.float32)
    bias_E[:outputs] = _numbers(linear.bias)
    weight_DE[:, :outputs] = linear.weight.detach().numpy().T
    return [bias_E, weight_DE.reshape(inputs, panels, PANEL).transpose(1, 0, 2).ravel()]


def _norm(norm: nn.Module) -> list[FloatArray]:
    assert isinstance(norm, nn.LayerNorm)
    return [_numbers(norm.weight), _numbers(norm.bias)]


def _numbers(weight: torch.Tensor) -> FloatArray:
    numbers_X: FloatArray = weight.detach().numpy().astype(np.float32, copy=False).ravel()
    return numbers_X
