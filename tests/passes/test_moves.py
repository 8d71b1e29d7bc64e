"""Operators that only rearrange: a map moves as the value does, both ways, whatever it varies along.

Each operator stands alone, is fed numbers, and its handlers are asked about random maps of its input and its output.
"""

import numpy as np
import pytest
from onnx import ModelProto

from bnfold.decisions import Action, Refused
from bnfold.graph import Graph, Model
from bnfold.onnxfile import read
from bnfold.passes.affine import Affine
from bnfold.passes.carriers import TOWARD_CONSUMERS, TOWARD_PRODUCER
from tests.fold_models import Array, Row, batch_norm, check_folds, check_left_alone, int64, numbers
from tests.oracle import evaluate

_INPUTS = {
    "p": "float[2,4,6,8]",
    "thin": "float[1,4,1,8]",
    "deep": "float[1,8,3,2]",
    "free": "float[N,4,H,8]",
    "wide": "float[2,3,9,10]",
    "tokens": "float[N,7,5]",
}


_CONSTANTS = {
    "split4": int64(2, 2, 2, 6, 8),
    "merged": int64(8, 6, 8),
    "tail": int64(2, 4, 48),
    "at0": int64(0),
    "at1": int64(1),
    "at2": int64(2),
    "start": int64(1),
    "end": int64(3),
    "far": int64(-100),
    "minus": int64(-1),
    "reversed": int64(3, 2, 1, 0),
    "some": int64(2, 0),
    "negative": int64(-1, 1),
    "again": int64(0, 1, 1),
    "matrix": np.array([[0, 3], [2, 1]], np.int64),
    "number": np.array(2, np.int64),
    "repeats": int64(1, 2, 1, 3),
    "larger": int64(2, 4, 6, 8),
    "more": int64(3, 2, 4, 6, 8),
    "pads": int64(0, 1, 1, 0, 0, 0, 0, 2),
    "crop": int64(0, -1, 0, 0, 0, 0, -2, 0),
    "scales": np.array([1, 1, 2, 3], np.float32),
    "whole": np.array([1, 2, 1, 1], np.float32),
}
OPERATORS = {
    "Identity": "y = Identity(p)",
    "Transpose": "y = Transpose<perm=[2,0,3,1]>(p)",
    "Reshape, splitting": "y = Reshape(p, split4)",
    "Reshape, joining in front": "y = Reshape(p, merged)",
    "Reshape, joining behind": "y = Reshape(p, tail)",
    "Flatten at 0": "y = Flatten<axis=0>(p)",
    "Flatten at 1": "y = Flatten<axis=1>(p)",
    "Flatten at 2": "y = Flatten<axis=2>(p)",
    "Flatten at -1": "y = Flatten<axis=-1>(p)",
    "Squeeze": "y = Squeeze(thin, at2)",
    "Unsqueeze": "y = Unsqueeze(p, at2)",
    "Slice": "y = Slice(p, start, end, at1)",
    "Slice backwards": "y = Slice(p, end, far, at1, minus)",
    "Gather": "y = Gather<axis=1>(p, reversed)",
    "Gather some": "y = Gather<axis=1>(p, some)",
    "Gather, counted from the end": "y = Gather<axis=-3>(p, negative)",
    "Gather twice": "y = Gather<axis=1>(p, again)",
    "Gather a matrix": "y = Gather<axis=1>(p, matrix)",
    "Gather one": "y = Gather<axis=1>(p, number)",
    "Tile": "y = Tile(p, repeats)",
    "Expand": "y = Expand(thin, larger)",
    "Expand with more axes": "y = Expand(thin, more)",
    "DepthToSpace": "y = DepthToSpace<blocksize=2>(deep)",
    "DepthToSpace, CRD": 'y = DepthToSpace<blocksize=2, mode="CRD">(deep)',
    "SpaceToDepth": "y = SpaceToDepth<blocksize=2>(p)",
    "Pad, edge": 'y = Pad<mode="edge">(p, pads)',
    "Pad, reflect": 'y = Pad<mode="reflect">(p, pads)',
    "Pad, wrap": 'y = Pad<mode="wrap">(p, pads)',
    "Pad, cropping": "y = Pad(p, crop)",
    "Resize": 'y = Resize(p, "", scales)',
    "Resize, of the channels": 'y = Resize(p, "", whole)',
    "Resize, asymmetric": (
        'y = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(p, "", scales)'
    ),
}


def _alone(text: str) -> tuple[ModelProto, Graph]:
    model = Row(text, _INPUTS, _CONSTANTS, opset=19).model()
    return model, Model(read(model.SerializeToString())).main


def _values(model: ModelProto, value: Array) -> Array:
    return evaluate(model, {model.graph.input[0].name: value})["y"]


def _maps(shape: tuple[int, ...], *, count: int = 12) -> list[Affine]:
    """Maps that vary along a random choice of axes, also along none."""
    random = np.random.default_rng(len(shape))
    found = []
    for _ in range(count):
        own = [size if random.random() < 0.4 else 1 for size in shape]
        found.append(Affine.of(random.uniform(0.5, 2, own), random.normal(size=own)))
    return found


def _applied(affine: Affine, value: Array) -> Array:
    whole = affine.at_rank(value.ndim)
    return whole.scale * value + whole.shift


@pytest.mark.parametrize("name", OPERATORS)
def test_a_map_of_the_input_comes_out(name: str) -> None:
    model, graph = _alone(OPERATORS[name])
    (node,) = graph.nodes()
    x = np.random.default_rng(0).normal(size=[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim])
    for affine in _maps(x.shape):
        (step,) = TOWARD_CONSUMERS[node.op_type](node, 0, affine, graph)
        moved = dict(step.passes_on).get(0, Affine(np.ones(()), np.zeros(())))
        np.testing.assert_allclose(_applied(moved, _values(model, x)), _values(model, _applied(affine, x)), rtol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_map_of_the_output_goes_in(name: str) -> None:
    """Or it is refused, because an element that is read twice would need two numbers."""
    model, graph = _alone(OPERATORS[name])
    (node,) = graph.nodes()
    x = np.random.default_rng(0).normal(size=[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim])
    y = _values(model, x)
    refused: list[str] = []
    for affine in _maps(y.shape):
        try:
            step = TOWARD_PRODUCER[node.op_type](node, 0, affine, graph)[0]
        except Refused as why:
            refused.append(why.reason.code)
            continue
        moved = dict(step.passes_on).get(0, Affine(np.ones(()), np.zeros(())))
        np.testing.assert_allclose(_values(model, _applied(moved, x)), _applied(affine, y), rtol=1e-12)
    assert set(refused) <= {"NOT_PER_CHANNEL"}
    assert len(refused) < 12
    assert not refused or any(word in name for word in ("twice", "Tile", "Expand", "Pad", "Resize"))


# ------------------------------------------------------------------ folds that need more than one axis

_FOLDS = {
    **{name: array for c in (2, 4, 8, 12, 24) for name, array in batch_norm(c, str(c)).items()},
    **{f"{name}tile": np.tile(array, 2) for name, array in batch_norm(4, "").items()},
    "groups": int64(0, 2, 2, 6, 7),
    "together": int64(0, 4, 6, 7),
    "one_image": int64(1, 8, 9, 10),
    "two_images": int64(2, 4, 9, 10),
    "heads": int64(0, 0, 2, 2),
    "flat": int64(0, 0, 4),
    "order": int64(2, 0, 3, 1),
    "twice": int64(0, 1, 2, 3, 0, 1, 2, 3),
    "repeat": int64(1, 2, 1, 1),
    "large": int64(1, 4, 4, 5),
    "w4": numbers(4, 3, 1, 1),
    "k": numbers(5, 4),
    "k24": numbers(24, 3),
    "u": numbers(5, 4, 1, 1),
    "u8": numbers(5, 8, 1, 1),
    "tall": np.array([1, 1, 2, 2], np.float32),
    "at1": int64(1),
}
B = "BatchNormalization(c, g, h, m, v)"
FOLDS = {
    "a channel shuffle": f"d = Conv(x, w4) e = Reshape(d, groups) f = Transpose<perm=[0,2,1,3,4]>(e) "
    f"c = Reshape(f, together) y = {B}",
    "statistics repeated for each image": (
        "d = Conv(wide, w4) c = Reshape(d, one_image) n = BatchNormalization(c, gtile, htile, mtile, vtile) "
        "y = Reshape(n, two_images)"
    ),
    "heads of a MatMul": (
        "d = MatMul(tokens, k) e = Reshape(d, heads) f = Transpose<perm=[0,2,1,3]>(e) i = Transpose<perm=[0,2,1,3]>(f) "
        "j = Reshape(i, flat) c = Transpose<perm=[0,2,1]>(j) y = BatchNormalization(c, g, h, m, v)"
    ),
    "Gather of channels": f"d = Conv(x, w4) c = Gather<axis=1>(d, order) y = {B}",
    "Gather of channels, toward the consumer": (
        "n = BatchNormalization(p4, g, h, m, v) c = Gather<axis=1>(n, order) y = Conv(c, u)"
    ),
    "Gather twice, toward the consumer": (
        "n = BatchNormalization(p4, g, h, m, v) c = Gather<axis=1>(n, twice) y = Conv(c, u8)"
    ),
    "Tile": "d = Conv(x, w4) c = Tile(d, repeat) y = BatchNormalization(c, gtile, htile, mtile, vtile)",
    "Tile, toward the consumer": "n = BatchNormalization(p4, g, h, m, v) c = Tile(n, repeat) y = Conv(c, u8)",
    "Expand": f"d = Conv(single, w4) c = Expand(d, large) y = {B}",
    "Flatten, toward the consumer": (
        "n = BatchNormalization(small, g, h, m, v) c = Flatten(n) y = Gemm(c, k24)"
    ),
    "Flatten of what a Gemm made": (
        "d = Gemm(rows, k) e = Unsqueeze(d, at1) c = Flatten<axis=1>(e) y = BatchNormalization(c, g, h, m, v)"
    ),
    "nearest Resize and back": (
        'd = Conv(x, w4) e = Resize(d, "", tall) c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(e) '
        "y = BatchNormalization(c, g_positive, h, m, v)"
    ),
}  # fmt: skip
_FOLD_INPUTS = {
    "p4": "float[N,4,6,7]", "wide": "float[2,3,9,10]", "tokens": "float[N,7,5]", "single": "float[1,3,1,1]",
    "small": "float[N,4,2,3]", "rows": "float[N,5]",
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    constants = {**_FOLDS, "g_positive": numbers(4, low=0.5, high=2.0)}
    row = Row(FOLDS[name], _FOLD_INPUTS, constants)
    left = " ".join(node.op_type for node in row.model().graph.node if node.op_type != "BatchNormalization")
    done = check_folds(row, left.replace("MatMul", "MatMul Add"))
    assert {decision.action for decision in done.decisions} == {Action.FOLDED}


LEFT_ALONE = {
    "WRONG_AXIS: the shuffle leaves the groups": (
        "d = Conv(x, w4) e = Reshape(d, groups) f = Transpose<perm=/[0,2,1,3,4]|[0,2,3,1,4]/>(e) "
        f"c = Reshape(f, together) y = {B}"
    ),
    "WRONG_AXIS: other statistics for each image": (
        "d = Conv(wide, w4) c = Reshape(d, one_image) n = BatchNormalization(c, /gtile|g8/, htile, mtile, vtile) "
        "y = Reshape(n, two_images)"
    ),
    "NOT_PER_CHANNEL: one element under two numbers": (
        "d = Conv(x, w4) c = Gather<axis=1>(d, twice) y = BatchNormalization(c, /gtile|g8/, htile, mtile, vtile)"
    ),
    "BARRIER: computed indices": f"d = Conv(x, w4) c = Gather<axis=1>(d, /order|loose/) y = {B}",
    "SHAPE_UNKNOWN: computed repeats": (
        "d = Conv(x, w4) c = Tile(d, /repeat|loose/) y = BatchNormalization(c, gtile, htile, mtile, vtile)"
    ),
    "NOT_PER_CHANNEL: Tile with other numbers": (
        "d = Conv(x, w4) c = Tile(d, repeat) y = BatchNormalization(c, /gtile|g8/, htile, mtile, vtile)"
    ),
    "NOT_PER_CHANNEL: Expand of the channels": (
        "d = Conv(single, /w4|w_one/) c = Expand(d, large) y = BatchNormalization(c, g, h, m, v)"
    ),
    "SHAPE_UNKNOWN: an axis of unknown size is split": (
        "n = BatchNormalization(/small|open/, g, h, m, v) c = Flatten(n) y = Gemm(c, k24)"
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    inputs = {**_FOLD_INPUTS, "loose": "int64[4]", "open": "float[N,4,2,W]"}
    check_left_alone(name, Row(LEFT_ALONE[name], inputs, {**_FOLDS, "w_one": numbers(1, 3, 1, 1)}))
