"""unpack-sequences: which sequences become Split, which stay, and that the parts are the same bits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

import bnfold
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import UnpackSequences
from bnfold.pipeline import run_passes
from tests.fold_models import build

Array = NDArray[Any]

CONSTANTS: Mapping[str, Array] = {
    "zero": np.array(0),
    "one": np.array(1),
    "two": np.array(2, np.int32),
    "last": np.array(-1),
    "nine": np.array(9),
    "each": np.array(2),
    "sizes": np.array([1, 3, 2]),
    "row": np.array([0]),
}
INPUTS = {"x": "float[3,6]", "xn": "float[3,N]", "p": "int64"}
PARTS = "a = SequenceAt(s, zero) b = SequenceAt(s, last) y = Concat<axis=1>(b, a)"

UNPACKED: dict[str, tuple[str, list[str]]] = {
    "given sizes": (f"s = SplitToSequence<axis=1>(x, sizes) {PARTS}", ["Split", "Concat"]),
    "given sizes of a size that varies": (f"s = SplitToSequence<axis=1>(xn, sizes) {PARTS}", ["Split", "Concat"]),
    "equal sizes": (f"s = SplitToSequence<axis=-1>(x, each) {PARTS}", ["Split", "Concat"]),
    "sizes of one": (f"s = SplitToSequence<axis=1>(x) {PARTS}", ["Split", "Concat"]),
    "without the axis": (
        "s = SplitToSequence<axis=1, keepdims=0>(x) a = SequenceAt(s, two) b = SequenceAt(s, last) y = Add(a, b)",
        ["Gather", "Gather", "Add"],
    ),
    "one part twice": (
        "s = SplitToSequence<axis=1>(x, each) a = SequenceAt(s, two) b = SequenceAt(s, last) y = Add(a, b)",
        ["Split", "Identity", "Add"],
    ),
}
STAYS: dict[str, str] = {
    "a position that varies": "s = SplitToSequence<axis=1>(x, each) a = SequenceAt(s, p) y = Relu(a)",
    "a position that is not there": "s = SplitToSequence<axis=1>(x, each) a = SequenceAt(s, nine) y = Relu(a)",
    "another reader": f"s = SplitToSequence<axis=1>(x, each) n = SequenceLength(s) {PARTS}",
    "equal sizes of a size that varies": f"s = SplitToSequence<axis=1>(xn, each) {PARTS}",
    "a position that is no scalar": "s = SplitToSequence<axis=1>(x, each) a = SequenceAt(s, row) y = Relu(a)",
    "a reader in a body": (
        "s = SplitToSequence<axis=1>(x, each) c = Equal(p, zero) y = If(c)<then_branch = g1 () => (float[3,2] q)"
        " { q = SequenceAt(s, zero) }, else_branch = g2 () => (float[3,2] r) { r = SequenceAt(s, one) }>"
    ),
}


def unpacked(proto: ModelProto) -> ModelProto:
    edited = Model(read(proto))
    run_passes(edited, [UnpackSequences()])
    return to_proto(edited.file)


def run(proto: ModelProto) -> Array:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = np.arange(18, dtype=np.float32).reshape(3, 6)
    made: Array = session.run(None, {session.get_inputs()[0].name: feed})[0]
    return made


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("name", UNPACKED)
def test_a_sequence_that_is_taken_apart_becomes_a_split(name: str, opset: int) -> None:
    text, operators = UNPACKED[name]
    before = build(text, inputs=INPUTS, constants=CONSTANTS, opset=opset)
    after = unpacked(before)
    assert [node.op_type for node in after.graph.node] == operators
    parts = {output for node in before.graph.node if node.op_type == "SequenceAt" for output in node.output}
    assert parts <= {output for node in after.graph.node for output in node.output}
    assert run(after).tobytes() == run(before).tobytes()
    assert unpacked(after) == after


@pytest.mark.parametrize("name", STAYS)
def test_a_sequence_that_may_be_anything_else_stays(name: str) -> None:
    before = build(STAYS[name], inputs=INPUTS, constants=CONSTANTS)
    assert unpacked(before) == before


def test_a_sequence_of_the_model_stays() -> None:
    before = build(f"s = SplitToSequence<axis=1>(x, each) {PARTS}", inputs=INPUTS, constants=CONSTANTS)
    before.graph.output.add().CopyFrom(before.graph.output[0])
    before.graph.output[1].name = "s"
    before.graph.output[1].ClearField("type")
    assert unpacked(before) == before


def test_it_is_proved() -> None:
    before = build(UNPACKED["given sizes"][0], inputs=INPUTS, constants=CONSTANTS)
    verification = bnfold.optimize(before).report.verification
    assert verification is not None
    assert {proof["standing"] for proof in verification["proofs"]} == {"holds"}
