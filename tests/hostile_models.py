"""Hostile models, each made by a few lines: a table of what `bnfold optimize` must answer to them."""

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

HEADER = '<ir_version: 8, opset_import: ["": 17, "own": 1]> '
PLAIN = "g (float[1] x) => (float[1] y) { y = Relu(x) }"
CALL = "g (float[1] x) => (float[1] y) { y = own.f0(x) } "
IMPORTS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


@dataclass(frozen=True)
class Hostile:
    """`make` writes in.onnx, and whatever else, into a folder. `words` is in the message, or `reason` in the report."""

    make: Callable[[Path], object]
    code: int
    words: str = ""
    reason: str = ""
    options: tuple[str, ...] = ()


TABLE: dict[str, Hostile] = {}


def entry(
    name: str, make: Callable[[Path], object], code: int, words: str = "", reason: str = "", *options: str
) -> None:
    assert name not in TABLE
    TABLE[name] = Hostile(make, code, words, reason, options)


def data(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "in.onnx").write_bytes(content)


def proto(model: ModelProto) -> Callable[[Path], object]:
    return data(model.SerializeToString())


def large(make: Callable[..., ModelProto], *arguments: Any, **keywords: Any) -> Callable[[Path], object]:
    """What is made where it is asked for: every process of the tests collects the table."""
    return lambda folder: proto(make(*arguments, **keywords))(folder)


def text(body: str, header: str = HEADER) -> Callable[[Path], object]:
    return proto(parser.parse_model(header + body))


def changed(change: Callable[[ModelProto], object], body: str = PLAIN) -> Callable[[Path], object]:
    model = parser.parse_model(HEADER + body)
    change(model)
    return proto(model)


# ---------------------------------------------------------------------- not a model

SOUND = parser.parse_model(HEADER + PLAIN).SerializeToString()

entry("empty", data(b""), 3, "is empty")
entry("one byte", data(b"\x08"), 3, "damaged or not an ONNX model")
entry("noise", data(np.random.default_rng(0).bytes(10_000)), 3, "damaged or not an ONNX model")
entry("zeros", data(bytes(1000)), 3, "damaged or not an ONNX model")
entry("a web page", data(b"<!DOCTYPE html><html>404</html>"), 3, "is a web page")
entry("a Git LFS pointer", data(b"version https://git-lfs.github.com/spec/v1\n"), 3, "git lfs pull")
entry("a PyTorch checkpoint", data(b"PK\x03\x04" + bytes(100)), 3, "PyTorch checkpoint")
entry("an HDF5 file", data(b"\x89HDF\r\n\x1a\n" + bytes(100)), 3, "HDF5")
entry("compressed", data(gzip.compress(SOUND)), 3, "decompress it first")
entry("cut off", data(SOUND[:-3]), 3, "was it copied completely")
entry("a length past the end", data(b"\x3a\xff\xff\xff\xff\x07"), 3, "announces")
entry("a number without end", data(b"\x3a" + b"\xff" * 20), 3, "damaged")
entry("a group", data(b"\x0b\x0c"), 3, "kind that ONNX does not use")
entry("no graph", proto(ModelProto(ir_version=8)), 3, "has no graph")
entry("a missing file", lambda _: None, 3, "No such file")
entry("a directory", lambda folder: (folder / "in.onnx").mkdir(), 3, "is a directory")
entry("a fifo", lambda folder: os.mkfifo(folder / "in.onnx"), 3, "not a regular file")
entry("an endless device", lambda folder: (folder / "in.onnx").symlink_to("/dev/zero"), 3, "not a regular file")
entry("a link to itself", lambda folder: (folder / "in.onnx").symlink_to("in.onnx"), 3, "symbolic link")
entry("a name that is not UTF-8", data(SOUND.replace(b"Relu", b"Rel\xfc")), 3, "graph.node[0].op_type is not UTF-8")
entry("a forged marker", changed(lambda m: setattr(m, "doc_string", "bnfold.payload")), 0)


def ifs(levels: int) -> ModelProto:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "b", [], [out("r")])
    for level in range(levels):
        node = helper.make_node("If", ["c"], [f"r{level}"], then_branch=body, else_branch=body)
        body = helper.make_graph([node], "b", [], [out(f"r{level}")])
    body.input.extend([out("x"), helper.make_tensor_value_info("c", TensorProto.BOOL, [])])
    return model_of(body)


def out(name: str, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1] if shape is None else shape)


def model_of(graph: GraphProto) -> ModelProto:
    return helper.make_model(graph, opset_imports=IMPORTS, ir_version=8)


def deep_ifs(levels: int) -> bytes:
    """One branch only, so that its size is linear in its depth."""
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "b", [], [out("r")]).SerializeToString()
    for _ in range(levels):
        attribute = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH).SerializeToString()
        attribute += field(6, body)
        node = NodeProto(op_type="If", input=["c"], output=["r"]).SerializeToString() + field(5, attribute)
        body = field(1, node)
    return ModelProto(ir_version=8).SerializeToString() + field(7, body)


def field(number: int, body: bytes) -> bytes:
    size, prefix = len(body), b""
    while size > 127:
        prefix += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + prefix + bytes([size]) + body


entry("40 bodies deep", data(deep_ifs(40)), 3, "nests too deep")
entry("3,000 bodies deep", data(deep_ifs(3000)), 3, "nested deeper than 100")
entry("12 bodies deep and broad", large(ifs, 12), 0, "", "", "--no-verify")

# ---------------------------------------------------------------------- structure

entry("no IR version", changed(lambda m: m.ClearField("ir_version")), 3, "no IR version")
entry("IR version of the future", changed(lambda m: setattr(m, "ir_version", 1000)), 3, "IR version 1000")
entry("no operator set", changed(lambda m: m.ClearField("opset_import")), 3, "imports no version")
entry("operator set of the future", changed(lambda m: setattr(m.opset_import[0], "version", 2**40)), 3, "upgrade onnx")
entry("negative operator set", changed(lambda m: setattr(m.opset_import[0], "version", -7)), 3, "never was")
entry("cycle", text("g (float[1] x) => (float[1] y) { y = Add(z, x) z = Relu(y) }"), 3, "node 'y' (Add) depends on")
entry("long cycle", proto(model_of(helper.make_graph(
    [helper.make_node("Relu", [a], [b]) for a, b in pairwise([*(f"v{i}" for i in range(5000)), "v0"])],
    "g", [], [out("v0")]))), 3, "depends on its own output")  # fmt: skip
entry("cycle through a body", text(
    "g (float[1] x, bool c) => (float[1] y) { y = If (c) <then_branch = t () => (float[1] r) { r = Neg(y) },"
    " else_branch = e () => (float[1] s) { s = Neg(x) }> }"), 3, "node 'y' (If) depends on its own output")  # fmt: skip
entry("undefined input", text("g (float[1] x) => (float[1] y) { y = Add(x, q) }"), 3, "reads 'q', which nothing makes")
entry(
    "undefined output", text("g (float[1] x) => (float[1] q) { y = Relu(x) }"), 3, "the output 'q' is made by no node"
)
entry("one value made twice", text("g (float[1] x) => (float[1] y) { y = Relu(x) y = Neg(x) }"), 3, "both make 'y'")
entry("one name for two values", text("g (float[1] x) => (float[1] y) { y = Relu(x) y = Neg(x) }"), 3, "both make 'y'")
entry(
    "one name for two inputs", text("g (float[1] x, float[1] x) => (float[1] y) { y = Relu(x) }"), 3, "inputs named 'x'"
)
entry("one name for two initializers", changed(
    lambda m: m.graph.initializer.extend(2 * [numpy_helper.from_array(np.ones(1, np.float32), "w")])
), 3, "initializers named 'w'")  # fmt: skip
entry("a function of itself", text(
    CALL + '<domain: "own", opset_import: ["": 17, "own": 1]> f0 (a) => (b) { b = own.f0(a) }'
), 3, "calls itself")  # fmt: skip


def cascade(levels: int, calls: int) -> ModelProto:
    """Each function calls the next `calls` times."""
    model = parser.parse_model(HEADER + CALL)
    for level in range(levels + 1):
        kind, domain = (f"f{level + 1}", "own") if level < levels else ("Relu", "")
        names = ["a", *(f"b{call}" for call in range(calls))]
        nodes = [helper.make_node(kind, [before], [after], domain=domain) for before, after in pairwise(names)]
        model.functions.append(helper.make_function("own", f"f{level}", ["a"], [names[-1]], nodes, IMPORTS))
    return model


entry("functions like a billion laughs", large(cascade, 60, 2), 3, "more than 1,000,000 nodes")
entry("functions called 2,000 levels deep", large(cascade, 2000, 1), 3, "too many levels")

# ---------------------------------------------------------------------- tensors


def weight(**fields: object) -> Callable[[Path], object]:
    values = {"name": "w", "data_type": TensorProto.FLOAT, "dims": [1], "raw_data": bytes(4)} | fields
    tensor = TensorProto(**{key: value for key, value in values.items() if value is not None})  # type: ignore[arg-type]  # mixed
    return changed(lambda m: m.graph.initializer.append(tensor))


entry("dims that overflow", weight(dims=[2**62, 4]), 3, "more elements than a 64-bit number")
entry("dims that wrap around to nothing", weight(dims=[2**32, 2**32], raw_data=b""), 3, "more elements than")
entry("more dims than arrays have", weight(dims=[1] * 65), 3, "has 65 dimensions")
entry("a negative dim", weight(dims=[-1]), 3, "negative dimension")
entry("a terabyte announced", weight(dims=[2**38]), 3, "has 4 bytes of data")
entry("too few bytes", weight(dims=[3]), 3, "tensor 'w' has 4 bytes of data where its shape [3]")
entry("too many bytes", weight(raw_data=bytes(8)), 3, "has 8 bytes of data")
entry("too few numbers", weight(dims=[3], raw_data=None, float_data=[1.0]), 3, "has 1 values")
entry("strings as bytes", weight(data_type=TensorProto.STRING), 3, "holds strings as raw data")
entry("an unknown type", weight(data_type=999), 3, "has the element type 999")
entry("no type", weight(data_type=None), 3, "has the element type 0")
entry("too few bytes in a body that nobody knows", changed(
    lambda m: m.graph.node[0].attribute[0].g.initializer[0].ClearField("float_data"),
    "g (float[1] x) => (float[1] y) { y = own.Loop2 (x) <body = b () => (float[2] r) <float[2] w = {1, 2}>"
    " { r = Neg(w) }> }"), 3, "tensor 'w' has 0 values", "", "--no-verify")  # fmt: skip
entry("an input of an unknown type", changed(
    lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 999)), 0, "", "", "--no-verify")  # fmt: skip


def external(
    prepare: Callable[[Path], object] = lambda folder: (folder / "w.bin").write_bytes(bytes(4)), **entries: str
) -> Callable[[Path], object]:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": "w.bin"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    write = changed(lambda m: m.graph.initializer.append(tensor))
    return lambda folder: (prepare(folder), write(folder))


entry("data by an absolute path", external(location="/etc/passwd"), 3, "absolute path")
entry("data outside the directory", external(location="../../../../etc/passwd"), 3, "outside the model's directory")
entry("data through a link", external(lambda f: (f / "w.bin").symlink_to("/etc/passwd")), 3, "outside the model's")
entry("data through a linked directory", external(lambda f: (f / "d").symlink_to("/etc"), location="d/passwd"), 3,
      "outside the model's directory")  # fmt: skip
entry("data in a device", external(lambda f: (f / "w.bin").symlink_to("/dev/zero")), 3, "outside the model's directory")
entry("data in a fifo", external(lambda f: os.mkfifo(f / "w.bin")), 3, "not a regular file")
entry("data in the directory itself", external(location="."), 3, "is a directory")
entry("data nowhere", external(lambda _: None), 3, "No such file")
entry("data by a path of a megabyte", external(lambda _: None, location="a/" * 500_000), 3, "of 1000000 characters")
entry("data without a name", external(location=""), 3, "names no file")
entry("data by a name with a zero byte", external(location="w\0.bin"), 3, "zero byte")
entry("data past the end", external(offset="4"), 3, "has only 4")
entry("data at a negative offset", external(offset="-4"), 3, "not a byte count")
entry("data at 2^70", external(offset=str(2**70)), 3, "not a byte count")
entry("data 2^60 long", external(length=str(2**60)), 3, "bytes of external data where its shape and type need 4")
entry("data with hard links, strictly", external(lambda f: (
    (f / "other").write_bytes(bytes(4)), os.link(f / "other", f / "w.bin"))), 3, "hard links", "",
    "--strict-external-data")  # fmt: skip

# ---------------------------------------------------------------------- numbers


def conv_bn(
    dtype: type = np.float32, *, epsilon: float = 1e-5, w: float = 1.0,
    change: Callable[[ModelProto], object] | None = None,
    **values: list[float],
) -> Callable[[Path], object]:  # fmt: skip
    """Two channels: Conv, BatchNormalization with some values replaced, and a second one that is sound."""
    given = {"scale": [1.0, 2.0], "bias": [0.5, 0.5], "mean": [0.1, 0.2], "var": [1.0, 2.0]} | values
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    arrays = {"w": np.full((2, 2, 1, 1), w)} | {name: np.array(value) for name, value in given.items()}
    arrays |= {f"sound_{name}": np.array([1.5, 0.5]) for name in given}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *given], ["n"], name="bn", epsilon=epsilon),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["k"]),
        helper.make_node("BatchNormalization", ["k", *(f"sound_{name}" for name in given)], ["y"], name="sound"),
    ]
    with np.errstate(all="ignore"):
        weights = [numpy_helper.from_array(array.astype(dtype), name) for name, array in arrays.items()]
    ports = [helper.make_tensor_value_info(name, element, [1, 2, 3, 3]) for name in ("x", "y")]
    model = model_of(helper.make_graph(nodes, "g", ports[:1], ports[1:], weights))
    if change is not None:
        change(model)
    return proto(model)


NAN, INF = float("nan"), float("inf")
for title, arguments, reason in [
    ("variance NaN", {"var": [NAN, 1.0]}, "NOT_FINITE"),
    ("variance infinite", {"var": [INF, 1.0]}, "NOT_FINITE"),
    ("variance negative", {"var": [-1.0, 1.0]}, "NOT_FINITE"),
    ("variance zero and epsilon zero", {"var": [0.0, 1.0], "epsilon": 0.0}, "NOT_FINITE"),
    ("epsilon negative", {"var": [0.0, 1.0], "epsilon": -1.0}, "NOT_FINITE"),
    ("epsilon NaN", {"epsilon": NAN}, "NOT_FINITE"),
    ("scale NaN", {"scale": [NAN, 1.0]}, "NOT_FINITE"),
    ("scale infinite", {"scale": [1.0, -INF]}, "NOT_FINITE"),
    ("mean infinite", {"mean": [INF, 0.0]}, "NOT_FINITE"),
    ("bias NaN", {"bias": [0.0, NAN]}, "NOT_FINITE"),
    ("a weight that overflows", {"scale": [3e38, 1.0], "w": 1e3}, "WEIGHT_OVERFLOW"),
    ("a half weight that overflows", {"dtype": np.float16, "scale": [6e4, 1.0], "w": 10.0}, "WEIGHT_OVERFLOW"),
    ("a weight that underflows", {"scale": [1e-38, 1.0], "w": 1e-6}, "WEIGHT_UNDERFLOW"),
    ("a half weight that underflows", {"dtype": np.float16, "scale": [6e-5, 1.0], "w": 1e-4}, "WEIGHT_UNDERFLOW"),
    ("a scale that is denormal", {"scale": [1e-40, 1.0]}, "WEIGHT_UNDERFLOW"),
]:
    entry(title, conv_bn(**arguments), 0, "", reason, "--no-verify")  # type: ignore[arg-type]  # mixed

# ---------------------------------------------------------------------- operators used wrongly


def node(model: ModelProto, name: str) -> NodeProto:
    return next(each for each in model.graph.node if each.name == name)


def parameter(name: str, array: np.ndarray) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        tensor = next(each for each in model.graph.initializer if each.name == name)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


ONES = np.ones(2, np.float32)
for title, change, reason in [
    ("scale of rank 2", parameter("scale", ONES.reshape(1, 2)), "PARAMETER_SHAPE"),
    ("scale of rank 0", parameter("scale", np.float32(1.0)), "PARAMETER_SHAPE"),
    ("scale of three channels", parameter("scale", np.ones(3, np.float32)), "PARAMETER_SHAPE"),
    ("variance of a million channels", parameter("var", np.ones(10**6, np.float32)), "PARAMETER_SHAPE"),
    ("no channels", parameter("mean", np.ones(0, np.float32)), "PARAMETER_SHAPE"),
    ("integer mean", parameter("mean", np.ones(2, np.int32)), ""),
    ("double variance", parameter("var", np.ones(2, np.float64)), ""),
    ("strings for a bias", parameter("bias", np.array(["a", "b"], object)), ""),
    ("no variance", lambda m: node(m, "bn").input.pop(), "MALFORMED"),
    ("an empty mean", lambda m: node(m, "bn").input.__setitem__(3, ""), "MALFORMED"),
    ("a sixth input", lambda m: node(m, "bn").input.append("w"), ""),
    ("no inputs", lambda m: node(m, "bn").ClearField("input"), "MALFORMED"),
    ("no data input", lambda m: node(m, "bn").input.__setitem__(0, ""), "MALFORMED"),
    ("epsilon a string", lambda m: node(m, "bn").attribute[0].CopyFrom(helper.make_attribute("epsilon", "x")), ""),
    ("epsilon a graph", lambda m: node(m, "bn").attribute[0].CopyFrom(
        helper.make_attribute("epsilon", helper.make_graph([], "b", [], []))), ""),
    ("epsilon of no type", lambda m: node(m, "bn").attribute[0].ClearField("type"), ""),
    ("epsilon twice", lambda m: node(m, "bn").attribute.append(node(m, "bn").attribute[0]), ""),
    ("training mode 77", lambda m: node(m, "bn").attribute.append(helper.make_attribute("training_mode", 77)), ""),
    ("a weight of rank 1", parameter("w", ONES), ""),
    ("a weight without elements", parameter("w", np.ones((2, 0, 1, 1), np.float32)), ""),
    ("a quadrillion groups", lambda m: m.graph.node[0].attribute.append(helper.make_attribute("group", 10**15)), ""),
    ("no groups", lambda m: m.graph.node[0].attribute.append(helper.make_attribute("group", 0)), ""),
    ("negative pads", lambda m: m.graph.node[0].attribute.append(helper.make_attribute("pads", [-9, 9, 9, -9])), ""),
    ("a Conv without inputs", lambda m: m.graph.node[0].ClearField("input"), ""),
    ("a node of no operator", lambda m: m.graph.node[0].ClearField("op_type"), ""),
    ("an input of no type", lambda m: m.graph.input[0].ClearField("type"), ""),
    ("an input that is a sequence", lambda m: m.graph.input[0].type.sequence_type.SetInParent(), ""),
    ("a shape of negative dims", lambda m: setattr(
        m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", -2), ""),
    ("names that draw on the terminal", lambda m: setattr(node(m, "bn"), "name", "\x1b[2J\n\x07bn" + "n" * 9999), ""),
]:  # fmt: skip
    entry(title, conv_bn(change=change), 0, "", reason, "--no-verify")

# ---------------------------------------------------------------------- size without limit


def chain(operators: list[str], count: int, **constants: np.ndarray) -> ModelProto:
    nodes, value = [], "x"
    for number in range(count):
        kind = operators[number % len(operators)]
        nodes.append(helper.make_node(kind, [value, *(["k"] if kind in ("Mul", "Add") else [])], [f"v{number}"]))
        value = f"v{number}"
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return model_of(helper.make_graph(nodes, "g", [out("x", [1, 2])], [out(value, [1, 2])], weights))


def expression(kind: str, count: int, *, twice: bool = False) -> ModelProto:
    """A scale computed by a long expression over constants, and a Mul with it behind a MatMul."""
    nodes, value = [], "k"
    for number in range(count):
        nodes.append(helper.make_node(kind, [value] * (1 + twice), [f"k{number}"], **({"axis": 0} if twice else {})))
        value = f"k{number}"
    nodes += [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Mul", ["m", value], ["y"])]
    weights = [
        numpy_helper.from_array(np.ones(2, np.float32), "k"),
        numpy_helper.from_array(np.eye(2, dtype="f4"), "w"),
    ]
    return model_of(helper.make_graph(nodes, "g", [out("x", [1, 2])], [out("y", [1, 2])], weights))


def diamonds(count: int) -> ModelProto:
    """2 ** count ways from the Conv to the normalization."""
    nodes, value = [helper.make_node("Conv", ["x", "w"], ["v"])], "v"
    for number in range(count):
        nodes.append(helper.make_node("Add", [value, value], [f"v{number}"]))
        value = f"v{number}"
    nodes.append(helper.make_node("BatchNormalization", [value, *"kkkk"], ["y"]))
    weights = [numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w"), numpy_helper.from_array(ONES, "k")]
    return model_of(helper.make_graph(nodes, "g", [out("x", [1, 2, 3, 3])], [out("y", [1, 2, 3, 3])], weights))


def side_by_side(count: int) -> ModelProto:
    bodies = [
        helper.make_node(
            "If", ["c"], [f"y{number}"],
            then_branch=helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "t", [], [out("r")]),
            else_branch=helper.make_graph([helper.make_node("Neg", ["x"], ["r"])], "e", [], [out("r")]),
        )
        for number in range(count)
    ]  # fmt: skip
    inputs = [out("x"), helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    return model_of(helper.make_graph(bodies, "g", inputs, [out("y0")]))


def scale_of(expression_text: str) -> Callable[[Path], object]:
    return text(
        f"g (float[1, 2] x) => (float[N, M] y) <float[2, 2] w = {{1, 0, 0, 1}}, float[2] k = {{1, 2}}> "
        f"{{ m = MatMul(x, w) {expression_text} y = Mul(m, s) }}"
    )


FOUR = "n = Constant<value = int64[1] {{{}}}>()"
entry("50,000 Identities", large(chain, ["Identity"], 50_000), 0, "", "", "--no-verify")
entry("10,000 Muls and Adds", large(chain, ["Mul", "Add"], 10_000, k=ONES), 0, "", "", "--no-verify")
entry("5,000 Muls by channel", large(chain, ["Mul"], 5_000, k=np.array([1, -1], np.float32)), 0, "", "", "--no-verify")
entry("3,000 Muls and Relus", large(chain, ["Mul", "Relu"], 3_000, k=ONES), 0, "", "", "--no-verify")
entry("a constant 5,000 expressions deep", large(expression, "Transpose", 5_000), 0, "", "", "--no-verify")
entry("a constant doubled 60 times", large(expression, "Concat", 60, twice=True), 0, "", "", "--no-verify")
entry("a constant expanded without end", scale_of(
    FOUR.format(10**15) + " s = Expand(k, n)"), 0, "", "", "--no-verify")  # fmt: skip
entry("a constant tiled without end", scale_of(FOUR.format(2**62) + " s = Tile(k, n)"), 0, "", "", "--no-verify")
entry("a constant of a negative shape", scale_of(FOUR.format(-5) + " s = ConstantOfShape(n)"), 0, "", "", "--no-verify")
entry("a constant of 2^40 zeros", scale_of(FOUR.format(2**40) + " s = ConstantOfShape(n)"), 0, "", "", "--no-verify")
entry("a constant divided by zero", scale_of("z = Sub(k, k) s = Div(k, z)"), 0, "", "", "--no-verify")
entry("a Constant without a value", scale_of("s = Constant()"), 0, "", "", "--no-verify")
entry("a trillion ways", large(diamonds, 40), 0, "", "", "--no-verify")
entry("2,000 bodies side by side", large(side_by_side, 2_000), 0, "", "", "--no-verify")
entry("50,000 inputs of one node", proto(model_of(helper.make_graph(
    [helper.make_node("Concat", ["x"] * 50_000, ["y"], axis=0)], "g", [out("x")], [out("y", [50_000])]))),
    0, "", "", "--no-verify")  # fmt: skip
entry(
    "a name of a megabyte", text(f"g (float[1] x) => (float[1] y) {{ y = Add(x, {'q' * 10**6}) }}"), 3, "nothing makes"
)
entry("an endless Loop that is not run", text(
    """g (float[1] x) => (float[1] y) <bool t = {1}> { y = Loop (, t, x)
    <body = b (int64 i, bool c, float[1] a) => (bool d, float[1] r) { d = Identity(c) r = Neg(a) }> }"""
), 0, "", "", "--no-verify")  # fmt: skip
entry("an operator nobody has", text("g (float[1] x) => (float[1] y) { y = own.Thing(x) }"), 0)  # copied: proved
entry(
    "an operator nobody has, and no proof", text("g (float[1] x) => (float[1] y) { y = own.Thing(x) }"),
    1, "could not be verified", "", "--no-proof",
)  # fmt: skip
entry("a function named like an operator", text(
    '<ir_version: 8, opset_import: ["": 17]> g (float[1, 2] x) => (float[1, 2] y) <float[2] k = {1, 2},'
    ' float[2, 2] w = {1, 0, 0, 1}> { m = MatMul(x, w) y = BatchNormalization(m, k, k, k, k) }'
    ' <domain: "", opset_import: ["": 17]> BatchNormalization (a, b, c, d, e) => (f) { f = Neg(a) }', ""),
    0, "", "", "--no-verify")  # fmt: skip
entry(
    "an input of no elements", text("g (float[0] x) => (float[0] y) { y = Relu(x) }"), 0, "", "", "--allow-unverified"
)
entry(
    "an input of no rows",
    text("g (float[2, 0, 3] x) => (float[2, 0, 3] y) { y = Relu(x) }"),
    0,
    "",
    "",
    "--allow-unverified",
)
