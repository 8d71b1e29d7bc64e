"""What other optimizers are known to do wrong, by functions that do the same: found, named, and the rest published.

Where the tool itself is installed, it is run on the same model as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

import bnfold
from bnfold.errors import VerificationError
from bnfold.rewriting.optimizers import OPTIMIZERS, missing
from bnfold.testing import build, numbers
from tests.oracle import evaluate

BN = "BatchNormalization"
CONSTANTS: dict[str, Any] = {
    "w": (4, 3, 3, 3),
    "k": (5, 4, 3, 3),
    "b": (4,),
    "s": (4,),
    "h": (4,),
    "m": (4,),
    "rows": (4, 1),
    "v": numbers(4, low=0.3, high=2.0),
}
TYPES = {"x": "float[2,3,6,7]", "xs": "float[2,3,6,7]", "x4": "float[2,4,6,7]"}


def weight(model: ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def array(model: ModelProto, name: str) -> Any:
    return numpy_helper.to_array(weight(model, name))


def scale_and_shift(model: ModelProto, norm: NodeProto) -> tuple[Any, Any]:
    s, h, m, v = (array(model, name) for name in norm.input[1:5])
    k = s / np.sqrt(v + 1e-5)
    return k, h - m * k


def store(model: ModelProto, name: str, values: Any) -> None:
    weight(model, name).CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def take_out(model: ModelProto, norm: NodeProto, before: NodeProto) -> None:
    before.output[0] = norm.output[0]
    model.graph.node.remove(norm)


def folds_behind(model: ModelProto) -> tuple[NodeProto, NodeProto]:
    """The first Conv, whose weight and bias take up the first BatchNormalization, wherever else they are read."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    norm = next(node for node in model.graph.node if node.op_type == BN)
    k, t = scale_and_shift(model, norm)
    store(model, conv.input[1], array(model, conv.input[1]) * k[:, None, None, None])
    store(model, conv.input[2], array(model, conv.input[2]) * k + t)
    take_out(model, norm, conv)
    return conv, norm


def freezes_silently(model: ModelProto) -> None:
    """onnxscript: a BatchNormalization that trains is folded with its stored statistics."""
    folds_behind(model)


def renames_the_weight(model: ModelProto) -> None:
    """onnxscript: the folded weight gets a new name, and the output of the old one is made by nobody."""
    conv, _ = folds_behind(model)
    weight(model, conv.input[1]).name = "w_folded"
    conv.input[1] = "w_folded"


def renames_the_bias(model: ModelProto) -> None:
    """onnxscript: the same with the bias."""
    conv, _ = folds_behind(model)
    weight(model, conv.input[2]).name = "b_folded"
    conv.input[2] = "b_folded"


def folds_rows_as_channels(model: ModelProto) -> None:
    """onnxslim: a Mul by [4, 1], which scales the rows, goes into the Conv as if it scaled the channels."""
    conv, mul = model.graph.node
    k = array(model, "rows").reshape(-1)
    store(model, "w", array(model, "w") * k[:, None, None, None])
    store(model, "b", array(model, "b") * k)
    take_out(model, mul, conv)


def edits_shared_weights(model: ModelProto) -> None:
    """onnxoptimizer, AIMET: a weight that another operator reads is edited in place."""
    folds_behind(model)


def edits_an_output(model: ModelProto) -> None:
    """AIMET: a weight that is an output of the graph is edited in place."""
    folds_behind(model)


def ignores_auto_pad(model: ModelProto) -> None:
    """AIMET: a BatchNormalization before a Conv whose padding is in auto_pad, which it does not look at."""
    norm, conv = model.graph.node
    k, t = scale_and_shift(model, norm)
    w = array(model, "k")
    store(model, "k", w * k[None, :, None, None])
    model.graph.initializer.append(numpy_helper.from_array((w * t[None, :, None, None]).sum((1, 2, 3)), "k_bias"))
    conv.input[0] = norm.input[0]
    conv.input.append("k_bias")
    model.graph.node.remove(norm)


@dataclass(frozen=True)
class Case:
    """`peer`: the tool that does so, and whether its installed version still does."""

    wrong: Callable[[ModelProto], None]
    text: str
    outputs: tuple[str, ...] = ("y",)
    peer: str = ""

    def model(self) -> ModelProto:
        return build(self.text, inputs=TYPES, constants=CONSTANTS, outputs=self.outputs)


FOLDABLE = f"c = Conv(x, w, b) y = {BN}(c, s, h, m, v)"
CASES = {
    "train mode": Case(
        freezes_silently, f"c = Conv(x, w, b) y, rm, rv = {BN}<training_mode = 1>(c, s, h, m, v)", peer="onnxscript"
    ),
    "weight is an output": Case(renames_the_weight, FOLDABLE, ("y", "w"), "onnxscript"),
    "bias is an output": Case(renames_the_bias, FOLDABLE, ("y", "b"), "onnxscript"),
    "four operators": Case(folds_rows_as_channels, "c = Conv(xs, w, b) y = Mul(c, rows)", peer="onnxslim"),
    "shared weights": Case(edits_shared_weights, f"{FOLDABLE} z = Conv(x, w, b)", ("y", "z")),
    "shared bias": Case(edits_shared_weights, f"{FOLDABLE} u = Conv(x, w, b) z = Relu(u)", ("y", "z")),
    "edited output": Case(edits_an_output, FOLDABLE, ("y", "w")),
    "auto_pad": Case(ignores_auto_pad, f'n = {BN}(x4, s, h, m, v) y = Conv<auto_pad = "SAME_UPPER">(n, k)'),
}


def feeds(model: ModelProto) -> dict[str, Any]:
    return {
        value.name: numbers(*(dim.dim_value for dim in value.type.tensor_type.shape.dim)) for value in model.graph.input
    }


def assert_caught(model: ModelProto, wrong: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=f"he pass {name}") as failure:
        bnfold.optimize(model, passes=[wrong])
    assert failure.value.report.verdict == "not-equivalent"
    assert failure.value.report.attribution["passes"] == [name]
    output = tmp_path / "out.onnx"
    trains = any(node.op_type == BN and len(node.output) > 1 for node in model.graph.node)
    rest = [] if trains else ["default"]  # which would freeze it on purpose
    report = bnfold.optimize(model, output, passes=[wrong, *rest], on_mismatch="rollback").report
    assert report.verdict == "equivalent"
    assert report.attribution["passes"] == [name]
    published = onnx.load(output)
    onnx.checker.check_model(published)
    if not trains:
        was, now = evaluate(model, feeds(model)), evaluate(published, feeds(model))
        for value in was:
            np.testing.assert_allclose(now[value], was[value], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_function_that_does_the_same_is_caught_and_named(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.model()
    onnx.checker.check_model(model)
    assert_caught(model, case.wrong, case.wrong.__name__, tmp_path)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.peer])
def test_the_tool_itself_is_caught_where_it_still_does_so(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    if missing(OPTIMIZERS[case.peer]):
        pytest.skip(f"{case.peer} is not installed")
    output = tmp_path / "o.onnx"
    report = bnfold.optimize(case.model(), output, passes=[case.peer], on_mismatch="rollback").report
    assert report.verdict == "equivalent"
    assert report.attribution is None or report.attribution["passes"] == [case.peer]  # None: a later version is right


def test_the_best_of_both_verified(tmp_path: Path) -> None:
    """The default order folds what the tool would have folded wrongly; then the tool finds nothing left."""
    model = CASES["weight is an output"].model()
    report = bnfold.optimize(model, tmp_path / "o.onnx", passes=["default", "onnxscript"]).report
    assert report.verdict == "equivalent"
    assert [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node] == ["Conv"]


def test_what_was_taken_back_is_reported_with_its_changes(tmp_path: Path) -> None:
    case = CASES["shared weights"]
    report = bnfold.optimize(
        case.model(), tmp_path / "o.onnx", passes=[case.wrong, "default"], on_mismatch="rollback"
    ).report
    first, *others = report.passes
    assert (first["name"], first["verdict"]) == ("edits_shared_weights", "taken-back")
    assert first["changes"]["removed"]["count"] == 1
    assert {each["verdict"] for each in others} == {"unchanged", "proved"}
