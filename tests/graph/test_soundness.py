"""Structures that are refused before anything is asked about them, and unusual ones that are not."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper, parser

from bnfold.errors import ModelError
from bnfold.graph import Model
from bnfold.graph.soundness import DEEPEST_CALLS
from bnfold.onnxfile import read
from tests.backend_cases import backend_cases

PLAIN = "g (float[1] x) => (float[1] y) { y = Relu(x) }"
CALL = "g (float[1] x) => (float[1] y) { y = own.f(x) } "
FUNCTION = '<domain: "own", opset_import: ["": 17, "own": 1]> '


def model(text: str, header: str = '<ir_version: 8, opset_import: ["": 17, "own": 1]> ') -> ModelProto:
    return parser.parse_model(header + text)


def branching(then: str, *, before: str = "", after: str = "") -> str:
    other = "else_branch = e () => (float[1] s) { s = Neg(x) }"
    return (
        f"g (float[1] x, bool c) => (float[1] y) "
        f"{{ {before} y = If (c) <then_branch = t () => (float[1] r) {then}, {other}> {after} }}"
    )


def refused(proto: ModelProto, path: Path | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        Model(read(proto if path is None else path))
    message = str(caught.value)
    assert "\n" not in message
    return message


REFUSED = {
    "undefined": ("g (float[1] x) => (float[1] y) { y = Add(x, q) }", "node 'y' (Add) reads 'q', which nothing makes"),
    "undefined in a body": (branching("{ r = Neg(q) }"), "y.then_branch: node 'r' (Neg) reads 'q'"),
    "undefined in a function": (CALL + FUNCTION + "f (a) => (b) { b = Add(a, x) }", "node 'b' (Add) reads 'x'"),
    "output of nothing": ("g (float[1] x) => (float[1] y, float[1] q) { y = Relu(x) }", "the output 'q' is made by no"),
    "output of nothing in a body": (branching("{ z = Neg(x) }"), "y.then_branch: the output 'r' is made by no node"),
    "output of nothing in a function": (CALL + FUNCTION + "f (a) => (b, q) { b = Relu(a) }", "own::f: the output 'q'"),
    "made twice": ("g (float[1] x) => (float[1] y) { y = Relu(x) y = Neg(x) }", "'y' (Relu) and node 'y' (Neg) both"),
    "an input made": ("g (float[1] x) => (float[1] x) { x = Relu(x) }", "node 'x' (Relu) makes 'x', which is an input"),
    "an initializer made": ("g (float[1] x) => (float[1] y) <float[1] y = {1}> { y = Relu(x) }", "makes 'y', which is"),
    "two inputs": ("g (float[1] x, float[1] x) => (float[1] y) { y = Relu(x) }", "has two inputs named 'x'"),
    "a name around it": (
        branching("{ q = Abs(x) r = Neg(q) }", before="q = Relu(x)"),
        "makes 'q', a name that is taken",
    ),
    "an input around it": (branching("{ x = Abs(c) r = Neg(x) }"), "makes 'x', a name that is taken around it"),
    "own output": ("g (float[1] x) => (float[1] y) { y = Add(y, x) }", "node 'y' (Add) depends on its own output"),
    "cycle": ("g (float[1] x) => (float[1] y) { y = Add(z, x) z = Relu(y) w = Neg(z) }", "depends on its own output"),
    "cycle through a body": (branching("{ r = Neg(y) }"), "node 'y' (If) depends on its own output"),
    "cycle around a body": (branching("{ r = Neg(q) }", after="q = Relu(y)"), "depends on its own output"),
    "cycle inside a body": (branching("{ r = Neg(q) q = Neg(r) }"), "y.then_branch: node 'r' (Neg) depends on its own"),
    "cycle through a deeper body": (
        branching(
            "{ r = If (c) <then_branch = u () => (float[1] v) { v = Neg(y) }, else_branch = w () => (float[1] k)"
            " { k = Neg(x) }> }"
        ),
        "node 'y' (If) depends on its own output",
    ),
    "function of itself": (CALL + FUNCTION + "f (a) => (b) { b = own.f(a) }", "the function own::f calls itself"),
    "functions of each other": (
        CALL + FUNCTION + "f (a) => (b) { b = own.k(a) } " + FUNCTION + "k (a) => (b) { b = own.f(a) }",
        "calls itself, or one that does",
    ),
    "function twice": (CALL + 2 * (FUNCTION + "f (a) => (b) { b = Relu(a) } "), "defines the function own::f twice"),
    "function without versions": (
        CALL + '<domain: "own", opset_import: ["own": 1]> f (a) => (b) { b = Relu(a) }',
        "function 'f': imports no version of the ONNX operator set",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_sound_is_refused_with_its_place(name: str) -> None:
    text, words = REFUSED[name]
    assert words in refused(model(text))


def test_two_initializers_of_one_name_are_refused(tmp_path: Path) -> None:
    proto = model("g (float[1] x) => (float[1] y) <float[1] w = {1}> { y = Add(x, w) }")
    proto.graph.initializer.append(proto.graph.initializer[0])
    onnx.save(proto, tmp_path / "m.onnx")
    message = refused(proto, tmp_path / "m.onnx")
    assert message == f"{tmp_path / 'm.onnx'}: has two initializers named 'w'; give each its own name"


def test_names_that_would_break_the_line_are_escaped() -> None:
    proto = model(branching("{ r = Neg(q) }"))
    proto.graph.node[0].attribute[0].name = proto.graph.node[0].attribute[0].g.node[0].op_type = "\n\x1b[2J"
    assert r"y. \x1b[2J: node 'r' ( \x1b[2J) reads 'q'" in refused(proto)


VERSIONS: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "no IR version": (lambda m: m.ClearField("ir_version"), "says no IR version"),
    "IR version from the future": (lambda m: setattr(m, "ir_version", 99), "has IR version 99, and the installed onnx"),
    "negative IR version": (lambda m: setattr(m, "ir_version", -1), "says no IR version"),
    "no operator set": (lambda m: m.ClearField("opset_import"), "imports no version of the ONNX operator set"),
    "operator set from the future": (lambda m: setattr(m.opset_import[0], "version", 99), "imports version 99"),
    "operator set zero": (lambda m: setattr(m.opset_import[0], "version", 0), "imports version 0"),
    "two operator sets": (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 11)), "versions (11, 17)"),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_versions_nobody_knows_are_refused(name: str) -> None:
    spoil, words = VERSIONS[name]
    proto = model(PLAIN)
    spoil(proto)
    assert words in refused(proto)


def cascade(levels: int, calls: int) -> ModelProto:
    """Each function calls the next `calls` times: it all stands for calls ** levels nodes."""
    functions = [
        helper.make_function(
            "own", f"f{level}", ["a"], [f"b{calls}"],
            [helper.make_node(f"f{level + 1}" if level < levels else "Relu", [before], [after],
                              domain="own" if level < levels else "")
             for before, after in pairwise(["a", *(f"b{call}" for call in range(1, calls + 1))])],
            [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
        )
        for level in range(levels + 1)
    ]  # fmt: skip
    proto = model("g (float[1] x) => (float[1] y) { y = own.f0(x) }")
    proto.functions.extend(functions)
    return proto


def test_functions_that_stand_for_too_many_nodes_are_refused() -> None:
    Model(read(cascade(17, 2)))
    assert "more than 1,000,000 nodes" in refused(cascade(20, 2))
    assert "more than 1,000,000 nodes" in refused(cascade(5000, 2))


def test_calls_nested_too_deeply_are_refused() -> None:
    Model(read(cascade(DEEPEST_CALLS - 1, 1)))
    assert "too many levels" in refused(cascade(DEEPEST_CALLS + 1, 1))


SOUND = {
    "nodes out of order": "g (float[1] x) => (float[1] y) { y = Relu(z) z = Neg(x) }",
    "a body that reads what is made later": branching("{ r = Neg(q) }", after="q = Relu(x)"),
    "a body whose initializer hides a name": branching("<float[1] q = {3}> { r = Neg(q) }", before="q = Relu(x)"),
    "a body whose input hides a name": (
        "g (float[1] x, int64 n, bool c) => (float[1] y) { y = Loop (n, c, x) <body = b (int64 i, bool ci, float[1] x)"
        " => (bool co, float[1] r) { co = Identity(ci) r = Neg(x) }> }"
    ),
    "the same names in sibling bodies": branching("{ s = Neg(x) r = Neg(s) }"),
    "a body name that is used later outside": branching("{ q = Neg(x) r = Neg(q) }", after="q = Relu(y)"),
    "absent inputs and outputs": "g (float[3] x) => (float[3] y) { y, , = Clip(x, , ) , q = Dropout(x) }",
    "an absent input in front of an absent output": (
        'g (float[3] x) => (float[3] y) { z = Clip(x, "", "") y, "" = Dropout(z) }'
    ),
    "an output that is an input": "g (float[1] x) => (float[1] x) { y = Relu(x) }",
    "an output listed twice": "g (float[1] x) => (float[1] y, float[1] y) { y = Relu(x) }",
    "no nodes": "g (float[1] x) => (float[1] x) { }",
    "a function called twice": CALL.replace("y = own.f(x)", "z = own.f(x) y = own.f(z)")
    + FUNCTION + "f (a) => (b) { b = Relu(a) }",
    "a call that leaves out what is optional": CALL + FUNCTION + "f (a, o) => (b) { b = Clip(a, o) }",
    "a call that leaves out what one branch reads": (
        CALL.replace("f(x)", "f(x, x)")
        + FUNCTION.replace("17", "18") + "f (a, b, o) => (r) { c = OptionalHasElement(o) r = If(c) "
        "<then_branch = t () => (s) { s = Sum(a, o) }, else_branch = e () => (s) { s = Sum(a, b) }> }"
    ),
    "a custom operator with an input left out": 'g (float[1] x) => (float[1] y) { y = own.Sum(x, "") }',
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_what_is_unusual_and_sound_passes(name: str) -> None:
    Model(read(model(SOUND[name])))


def test_a_model_of_custom_operators_needs_no_onnx_operator_set() -> None:
    Model(
        read(model("g (float[1] x) => (float[1] y) { y = own.Thing(x) }", '<ir_version: 8, opset_import: ["own": 1]> '))
    )


def test_before_ir_version_3_there_was_one_operator_set() -> None:
    proto = model(PLAIN)
    proto.ir_version = 2
    proto.ClearField("opset_import")
    assert Model(read(proto)).main.opset == 1


def test_functions_of_one_name_may_be_told_apart_by_overload() -> None:
    proto = model(CALL + 2 * (FUNCTION + "f (a) => (b) { b = Relu(a) } "))
    proto.functions[1].overload = "other"
    Model(read(proto))


def test_every_node_case_of_the_onnx_backend_suite_is_sound() -> None:
    cases = backend_cases()
    assert len(cases) > 1500
    for case in cases:
        Model(read(case.model_bytes))
