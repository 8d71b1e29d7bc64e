"""Two models that were made apart: outputs paired by position, and the cause of a difference named."""

import numpy as np
import pytest
import torch.nn.functional as functional
from onnx import ModelProto, numpy_helper, parser
from torch import Tensor, nn

import bnfold
from bnfold.equivalence import Verdict, VerifyOptions, verify_unrelated
from bnfold.equivalence.runtime.torch_reference import ModuleReference
from bnfold.equivalence.structure.output_names import rename_outputs

GENERATOR = np.random.default_rng(0)
WEIGHT = GENERATOR.normal(size=(4, 3, 3, 3)).astype(np.float32)
STATISTICS = {name: GENERATOR.uniform(0.5, 2, 4).astype(np.float32) for name in "sbmv"}


def model(body: str, outputs: str, opset: int = 17, *, half: bool = False) -> bytes:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> agraph (float[N,3,6,7] x) => ({outputs}) {{ {body} }}'
    made = parser.parse_model(text)
    for name, values in {"w": WEIGHT, **STATISTICS}.items():
        made.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16) if half else values, name))
    return made.SerializeToString()


CONV = "c = Conv(x, w)"
PLAIN = model(f"{CONV} y = BatchNormalization(c, s, b, m, v)", "float[N,4,4,5] y")


def named(body: str, name: str) -> bytes:
    return model(body.replace("OUT", name), f"float[N,4,4,5] {name}")


PAIRS = {
    "a node's output": named(f"{CONV} OUT = BatchNormalization(c, s, b, m, v)", "z40"),
    "one that is read too": model(
        f"{CONV} z = BatchNormalization(c, s, b, m, v) r = Relu(z)", "float[N,4,4,5] z", opset=17
    ),
    "a value inside has the name": named("y = Conv(x, w) OUT = BatchNormalization(y, s, b, m, v)", "z"),
}


@pytest.mark.parametrize("candidate", PAIRS.values(), ids=PAIRS)
def test_outputs_whose_names_differ_are_paired_by_position_and_it_is_said(candidate: bytes) -> None:
    found = verify_unrelated(PLAIN, candidate)
    assert found.verdict is Verdict.EQUIVALENT
    assert [note for note in found.notes if "paired by position" in note and "with 'y'" in note]


def test_outputs_of_one_set_of_names_are_not_paired_otherwise() -> None:
    body = "y = Relu(x) z = Neg(x)"
    one = model(body, "float[N,3,6,7] y, float[N,3,6,7] z")
    other = model(body, "float[N,3,6,7] z, float[N,3,6,7] y")
    assert verify_unrelated(one, other).verdict is Verdict.NOT_EQUIVALENT
    assert not verify_unrelated(one, other).measurements


@pytest.mark.parametrize("outputs", ["float[N,3,6,7] z, float[N,3,6,7] q", "double[N,3,6,7] z", "float[N,5,6,7] z"])
def test_outputs_of_other_count_or_type_are_not_paired(outputs: str) -> None:
    body = "z = Relu(x) q = Neg(x)"
    found = verify_unrelated(model("y = Relu(x)", "float[N,3,6,7] y"), model(body, outputs))
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "differ" in found.explanation
    assert not found.measurements


def test_an_output_that_is_an_input_keeps_its_input() -> None:
    made = ModelProto.FromString(model("y = Relu(x)", "float[N,3,6,7] y, float[N,3,6,7] x"))
    rename_outputs(made, {"y": "a", "x": "y"})
    assert [value.name for value in made.graph.input] == ["x"]
    assert [value.name for value in made.graph.output] == ["a", "y"]
    assert [(node.op_type, *node.input, *node.output) for node in made.graph.node] == [
        ("Relu", "x", "a"),
        ("Identity", "x", "y"),
    ]


def test_optimize_keeps_names_so_that_a_rewrite_of_them_is_not_excused() -> None:
    assert bnfold.equivalence.verify(PLAIN, PAIRS["a node's output"]).verdict is Verdict.NOT_EQUIVALENT


TRAINS = f"{CONV} y, p, q = BatchNormalization<training_mode=1>(c, s, b, m, v)"
DROPS = "t = Constant<value = bool {1}>() f = Constant<value = float {0.5}>() "
CAUSES = {
    "training mode": (model(TRAINS, "float[N,4,4,5] y"), "BatchNormalization 'y' in training mode", ".eval()"),
    "dropout": (
        model(f"{DROPS} {CONV} n = BatchNormalization(c, s, b, m, v) y = Dropout(n, f, t)", "float[N,4,4,5] y"),
        "Dropout 'y' in training mode",
        "bnfold freeze",
    ),
    "float16 inside": (
        model(
            "u = Cast<to=10>(x) c = Conv(u, w) n = BatchNormalization(c, s, b, m, v) y = Cast<to=1>(n)",
            "float[N,4,4,5] y",
            half=True,
        ),
        "float16",
        "--rtol",
    ),
    "quantized": (
        model(
            "k = Constant<value = float {0.5}>() i = Constant<value = uint8 {128}>() j = QuantizeLinear(x, k, i) "
            "d = DequantizeLinear(j, k, i) c = Conv(d, w) y = BatchNormalization(c, s, b, m, v)",
            "float[N,4,4,5] y",
        ),
        "quantized",
        "QuantizeLinear",
    ),
    "another opset": (
        model(f"{CONV} n = BatchNormalization(c, s, b, m, v) y = Neg(n)", "float[N,4,4,5] y", opset=13),
        "opset 13",
        "the same opset",
    ),
}


@pytest.mark.parametrize(("candidate", "cause", "remedy"), CAUSES.values(), ids=CAUSES)
def test_the_cause_of_a_difference_is_named_with_its_remedy(candidate: bytes, cause: str, remedy: str) -> None:
    found = verify_unrelated(PLAIN, candidate, VerifyOptions(proof="never"))
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert cause in found.explanation
    assert remedy in found.explanation


def test_nothing_is_blamed_where_the_models_agree() -> None:
    folded = model(f"{CONV} y = BatchNormalization(c, s, b, m, v)", "float[N,4,4,5] y", opset=15)
    assert verify_unrelated(PLAIN, folded).explanation == ""


def test_layers_name_the_normalization_in_training_mode_as_the_first_value_that_deviates() -> None:
    found = verify_unrelated(PLAIN, model(TRAINS, "float[N,4,4,5] y"), VerifyOptions(layers=True))
    assert found.layers is not None
    assert found.layers.first is not None
    assert found.layers.first.node == "BatchNormalization"


def test_layers_name_the_first_normalization_in_training_mode_though_all_behind_it_differ() -> None:
    body = "c = Conv(x, w) n = BatchNormalization(c, s, b, m, v) r = Relu(n) y = BatchNormalization(r, s, b, m, v)"
    other = body.replace("n = Batch", "n, n1, n2 = Batch").replace("y = Batch", "y, y1, y2 = Batch")
    other = other.replace("Normalization(", "Normalization<training_mode=1>(")
    options = VerifyOptions(layers=True)
    found = verify_unrelated(model(body, "float[N,4,4,5] y"), model(other, "float[N,4,4,5] y"), options)
    assert found.layers is not None
    assert found.layers.first is not None
    assert found.layers.first.value.reference == "n"


class Noisy(nn.Module):
    """Normalizes with the batch and drops, whatever its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Dropping())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = functional.batch_norm(self.inner(x), None, None, training=True)
        return found


class Dropping(nn.Module):
    """Drops in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.9)


def test_a_module_that_trains_in_eval_mode_is_named_with_the_part_that_does() -> None:
    candidate = model("y = Relu(x)", "float[N,3,6,7] y")
    module = Noisy()
    reference = ModuleReference.of(module, candidate)
    assert reference.training_parts({"x": [2, 3, 6, 7]}) == ["dropout in 'inner.0'", "batch_norm"]
    found = verify_unrelated(reference, candidate)
    assert found.verdict is not Verdict.EQUIVALENT
    assert "dropout in 'inner.0'" in found.explanation
    assert "self.training" in found.explanation
    assert not module.inner[0]._forward_hooks
    assert not module.inner[0]._forward_pre_hooks


def test_a_module_that_evaluates_is_not_blamed() -> None:
    candidate = model("y = Neg(x)", "float[N,3,6,7] y")
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    found = verify_unrelated(ModuleReference.of(module, candidate), candidate)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "training" not in found.explanation
