"""Small models, and ways to spoil one node: inputs, outputs and attributes are gone, empty, there twice, retyped."""

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper, parser

_OPSETS = {"five outputs": 9, "opset 6": 6, "upsample": 9, "group norm": 21}
_ROWS = {
    "conv": "c = Conv<group=1>(x, w, b) y = BatchNormalization(c, g, h, m, v)",
    "conv transpose": "c = ConvTranspose<strides=[2,2], group=1>(x, wt, b) y = BatchNormalization(c, g, h, m, v)",
    "gemm": "f = Flatten(x) c = Gemm<transB=1>(f, wf, b) y = BatchNormalization(c, g, h, m, v)",
    "matmul": "f = Flatten(x) d = MatMul(f, wm) c = Add(d, b) y = BatchNormalization(c, g, h, m, v)",
    "training": "c = Conv(x, w) y, s, t = BatchNormalization<training_mode=1>(c, g, h, m, v)",
    "five outputs": "c = Conv(x, w) y, s, t, p, q = BatchNormalization(c, g, h, m, v)",
    "dropout": "d = Conv(x, w) c, mask = Dropout(d, ratio, true) y = BatchNormalization(c, g, h, m, v)",
    "opset 6": "c = Conv(x, w) d = BatchNormalization<is_test=1>(c, g, h, m, v) y = Add<axis=1,broadcast=1>(d, b)",
    "disguised": "d = Conv(x, w) e = Sub(d, col) f = Div(e, col) k = Mul(f, col) y = Add(k, col)",
    "before": "n = BatchNormalization(x, g3, g3, g3, g3) y = Conv(n, w, b)",
    "carriers": """
        d = Conv(x, w) e = Transpose<perm=[0,2,3,1]>(d) f = Transpose<perm=[0,3,1,2]>(e) c = Relu(f) y =
        BatchNormalization(c, g, h, m, v)
    """,
    "reshapes": "d = Conv(x, w) e = Reshape(d, to) c = Reshape(e, back) y = BatchNormalization(c, g, h, m, v)",
    "computed sizes": """
        d = Conv(x, w) s = Shape(d) z = Gather<axis=0>(s, zero) u = Unsqueeze(z, zeros) t = Concat<axis=0>(u,
        rest) c = Reshape(d, t) y = BatchNormalization(c, g, h, m, v)
    """,
    "pools": """
        d = Conv(x, w) e = MaxPool<kernel_shape=[2,2]>(d) c = AveragePool<kernel_shape=[2,2]>(e) y =
        BatchNormalization(c, g, h, m, v)
    """,
    "global": "d = Conv(x, w) e = BatchNormalization(d, g, h, m, v) f = GlobalAveragePool(e) y = Squeeze(f, at23)",
    "concat": """
        d = Conv(x, w) e = Conv(x, w) p = Concat<axis=2>(d, e) c = Clip(p, , six) y = BatchNormalization(c, g,
        h, m, v)
    """,
    "split": """
        d = Conv(x, w) e, f = Split<axis=2>(d, halves) c = Add(e, f) z = BatchNormalization(c, g, h, m, v) y =
        Neg(z)
    """,
    "slice, pad": """
        d = Conv(x, w) e = Slice(d, zeros, twos, at2) c = Pad(e, pads) y = BatchNormalization(c, g, h, m, v)
    """,
    "resize": """
        d = Conv(x, w) c = Resize<mode="nearest">(d, , scales) y = BatchNormalization(c, g, h, m, v)
    """,
    "upsample": "d = Conv(x, w) c = Upsample(d, scales) y = BatchNormalization(c, g, h, m, v)",
    "weight nodes": """
        i = Identity(w) k = Cast<to=1>(i) s = Shape(b) o = ConstantOfShape(s) n = Expand(one, s) e = Add(o, n) c
        = Conv(x, k, e) y = BatchNormalization(c, g, h, m, v)
    """,
    "constants": """
        k = Constant<value_float=2.0>() d = Mul(x, k) c = Conv(d, w) l =
        Constant<value_floats=[1.0,2.0,3.0,4.0]>() y = BatchNormalization(c, l, l, l, l)
    """,
    "quantized": """
        q = QuantizeLinear(x, one, u8) e = DequantizeLinear(q, one, u8) c = Conv(e, w) y = BatchNormalization(c,
        g, h, m, v)
    """,
    "quantized weight": """
        e = DequantizeLinear<axis=0>(wq, pos, zq) c = Conv(x, e) y = BatchNormalization(c, g, h, m, v)
    """,
    "branches": """
        d = Conv(x, w) y = If(true) <then_branch = a () => (float[N,4,4,5] r) { r = BatchNormalization(d, g, h,
        m, v) }, else_branch = b () => (float[N,4,4,5] s) { s = Identity(d) }>
    """,
    "loop": """
        y = Loop(trips, true, x) <body = b (int64 i, bool k, float[N,3,6,7] e) => (bool o, float[N,3,6,7] r) { o
        = Identity(k) r = BatchNormalization(e, g3, g3, g3, g3) }>
    """,
    "scan": "y = Scan<num_scan_inputs=1, body = b (float[3,6,7] e) => (float[3,6,7] r) { r = Relu(e) }>(x)",
    "other norms": """
        d = Conv(x, w) e = InstanceNormalization(d, g, h) c = LayerNormalization<axis=3>(e, five) y =
        BatchNormalization(c, g, h, m, v)
    """,
    "group norm": """
        d = Conv(x, w) c = GroupNormalization<num_groups=2>(d, g, h) y = BatchNormalization(c, g, h, m, v)
    """,
    "activations": """
        d = Conv(x, w) e = PRelu(d, col) f = Softmax<axis=1>(e) k = Where(true, f, e) c = LeakyRelu(k) y =
        BatchNormalization(c, g, h, m, v)
    """,
    "reductions": """
        c = Conv(x, w) d = BatchNormalization(c, g, h, m, v) e = ReduceMean<axes=[2,3]>(d) f, o = TopK(e, two) k
        = ArgMax(f) y = Cast<to=1>(k)
    """,
    "depth": "d = Conv(x, w16) c = DepthToSpace<blocksize=2>(d) y = BatchNormalization(c, g, h, m, v)",
    "recurrent": """
        d = Flatten(x) e = Unsqueeze(d, zeros) r, l = GRU<hidden_size=2>(e, gw, gr) y = Squeeze(l, zeros)
    """,
    "einsum": """
        d = Conv(x, w) e = BatchNormalization(d, g, h, m, v) y = Einsum<equation="nchw->ncwh">(e)
    """,
    "lists": """
        d = Conv(x, w) e = BatchNormalization(d, g, h, m, v) s = SequenceConstruct(e, d) y = SequenceAt(s, zero)
    """,
    "scaler": "f = Flatten(x) s = ai.onnx.ml.Scaler<offset=[1.0], scale=[2.0]>(f) y = MatMul(s, wm)",
}

_numbers = np.random.default_rng(0)
_FLOATS = {
    "w": (4, 3, 3, 3), "wt": (3, 4, 3, 3), "w16": (16, 3, 3, 3), "wf": (4, 126), "wm": (126, 4), "b": (4,),
    **dict.fromkeys("ghmv", (4,)), "g3": (3,), "col": (4, 1, 1), "five": (5,), "gw": (1, 6, 126), "gr": (1, 6, 2),
    "pos": (4,), "odd": (2, 3),
}  # fmt: skip
CONSTANTS = {name: (0.25 + _numbers.random(shape)).astype(np.float32) for name, shape in _FLOATS.items()} | {
    "ratio": np.float32(0.5), "true": np.array(True), "one": np.float32(1), "six": np.float32(6), "u8": np.uint8(3),
    "to": np.array([0, 4, -1]), "back": np.array([0, 4, 4, 5]), "zero": np.array(0), "zeros": np.array([0]),
    "twos": np.array([2]), "at2": np.array([2]), "at23": np.array([2, 3]), "rest": np.array([4, 4, 5]),
    "halves": np.array([2, 2]),
    "pads": np.array([0, 0, 1, 0, 0, 0, 0, 1]), "scales": np.array([1.0, 1.0, 2.0, 2.0], "f4"),
    "two": np.array([2]), "trips": np.array(2), "wq": np.ones((4, 3, 3, 3), np.int8), "zq": np.zeros(4, np.int8),
    "word": np.array(["word"], object), "whole": np.array([1, 2, 3]),
}  # fmt: skip
_RETYPED = ("odd", "whole", "word", "x")


NAMES = tuple(_ROWS)


def model_of(name: str) -> ModelProto:
    """One of the small models, whole."""
    header = f'<ir_version: 8, opset_import: ["": {_OPSETS.get(name, 17)}, "ai.onnx.ml": 3]>'
    model = parser.parse_model(f"{header} g (float[N,3,6,7] x) => (float y) {{ {_ROWS[name]} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    used = {value for graph in graphs(model) for node in graph.node for value in node.input}
    _store(model, used & CONSTANTS.keys())
    return model


def graphs(model: ModelProto) -> list[GraphProto]:
    """The main graph and the bodies nested in it."""
    found = [model.graph]
    for graph in found:  # grows while it is walked
        found += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return found


def _store(model: ModelProto, names: set[str]) -> None:
    there = {tensor.name for tensor in model.graph.initializer}
    for name in sorted(names - there):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(CONSTANTS[name]), name))


def spoiled(name: str) -> Iterator[tuple[str, ModelProto]]:
    """Every model in which one thing about one node of `name` is not as it was, and what that is."""
    whole = model_of(name)
    for scope, graph in enumerate(graphs(whole)):
        for position, node in enumerate(graph.node):
            for what, changed in _spoiled_nodes(node):
                model = ModelProto()
                model.CopyFrom(whole)
                graphs(model)[scope].node[position].CopyFrom(changed)
                _store(model, set(changed.input) & {*_RETYPED} - {"x"})
                yield f"{name}, {scope}.{position} {node.op_type}: {what}", model


def _spoiled_nodes(node: NodeProto) -> Iterator[tuple[str, NodeProto]]:
    for field in ("input", "output"):
        values = list(getattr(node, field))
        for at, value in enumerate(values):
            yield f"{field} {at} removed", _with(node, field, values[:at] + values[at + 1 :])
            yield f"{field} {at} empty", _with(node, field, [*values[:at], "", *values[at + 1 :]])
            yield f"{field} {at} twice", _with(node, field, [*values[:at], value, *values[at:]])
        if values:
            yield f"no {field}", _with(node, field, [])
    for at in range(len(node.input)):
        for other in _RETYPED:
            yield f"input {at} is {other}", _with(node, "input", [*node.input[:at], other, *node.input[at + 1 :]])
    yield "an output more", _with(node, "output", [*node.output, "more"])
    yield "no input, no output", _with(_with(node, "input", []), "output", [])
    for at, attribute in enumerate(node.attribute):
        rest = [each for number, each in enumerate(node.attribute) if number != at]
        yield f"{attribute.name} removed", _attributed(node, rest)
        yield f"{attribute.name} empty", _attributed(node, [*rest, AttributeProto(name=attribute.name)])
        untyped = AttributeProto.FromString(attribute.SerializeToString())
        untyped.ClearField("type")
        yield f"{attribute.name} without a type", _attributed(node, [*rest, untyped])
        typed = AttributeProto(name=attribute.name, type=attribute.type)
        yield f"{attribute.name} without a value", _attributed(node, [*rest, typed])
        yield f"{attribute.name} twice", _attributed(node, [*node.attribute, attribute])
        yield f"{attribute.name} twice, once without a value", _attributed(node, [*node.attribute, typed])
        for other in (
            -1,
            0,
            1 << 40,
            0.5,
            "word",
            [],
            [7, -7],
            [0, 0],
            [0.5],
            ["word"],
            numpy_helper.from_array(CONSTANTS["odd"]),
        ):
            made = helper.make_attribute(attribute.name, other, attr_type=AttributeProto.INTS if other == [] else None)
            yield f"{attribute.name} = {made.type}", _attributed(node, [*rest, made])


def _with(node: NodeProto, field: str, values: list[str]) -> NodeProto:
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.ClearField(field)
    getattr(changed, field).extend(values)
    return changed


def _attributed(node: NodeProto, attributes: list[AttributeProto]) -> NodeProto:
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.ClearField("attribute")
    changed.attribute.extend(attributes)
    return changed
