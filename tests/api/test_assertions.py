"""`assert_equivalent` says what is worth reading, and a PyTorch module is as good a reference as an ONNX model."""

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper, parser
from torch import Tensor, nn

import bnfold
from bnfold.equivalence import ModuleReference, Rule, Verdict
from bnfold.equivalence.numbers.float64 import Unknowable
from bnfold.errors import ProviderError, UsageError
from tests import architectures, planted


def model(body: str) -> ModelProto:
    return parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {body}')


def scaled(factor: float, output: str = "y") -> bytes:
    body = f"agraph (float[N,4] x) => (float[N,4] {output}) <float k = {{{factor}}}> {{ {output} = Mul(x, k) }}"
    return model(body).SerializeToString()


# --- the assertion ---------------------------------------------------------------------------------------------------


def test_what_agrees_gives_back_its_verification() -> None:
    found = bnfold.assert_equivalent(scaled(2.0), scaled(2.0), seed=3)
    assert (found.verdict, found.seed) == (Verdict.EQUIVALENT, 3)


def test_the_message_says_what_differs_where_by_how_much_and_how_to_see_it_again() -> None:
    with pytest.raises(AssertionError) as caught:
        bnfold.assert_equivalent(scaled(2.0), scaled(2.5), seed=3)
    assert isinstance(caught.value, bnfold.NotEquivalentError)
    message, found = str(caught.value), caught.value.verification
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert found.largest is not None
    assert "[not-equivalent]" in message.splitlines()[0]
    assert "y, feed batch" in message
    assert f"at {list(found.largest.worst_at)}" in message
    for value in (found.largest.worst_reference, found.largest.worst_candidate):
        assert f"{value:.6g}" in message
    assert "[tolerance]" in message
    assert "allowed" in message
    assert "bnfold.verify(reference, candidate, seed=3)" in message
    shapes = {feed["name"]: list(feed["shapes"]["x"]) for feed in found.feeds}
    assert f"feed {found.largest.where.feed} gives x {shapes[found.largest.where.feed]}" in message
    assert "onnxruntime 1." in message
    assert "torch" in message


def test_options_reach_the_verification_and_the_message(tmp_path: Any) -> None:
    (tmp_path / "a.onnx").write_bytes(scaled(2.0))
    (tmp_path / "b.onnx").write_bytes(scaled(2.5))
    paths = (tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert bnfold.assert_equivalent(*paths, rtol={"y": 1.0}).judgements[0].rule in {Rule.USER, Rule.EXACT}
    with pytest.raises(bnfold.NotEquivalentError) as caught:
        bnfold.assert_equivalent(*paths, rtol={"y": 1e-3}, inputs=[{"x": np.ones((1, 4), np.float32)}])
    message = str(caught.value)
    assert message.startswith(f"{paths[1]} is not equivalent to {paths[0]}")
    assert "rtol={'y': 0.001}, inputs=...)" in message
    assert "[user]" in message


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            model(
                "agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Neg(x) z = Relu(x) }"
            ).SerializeToString(),
            "outputs differ",
        ),
        (scaled(float("nan")), "NaN or infinite"),
        (
            model("agraph (float[N,4] x) => (float[N,4] y) { y = Unheard.Of(x) }").SerializeToString(),
            "not the candidate",
        ),
    ],
    ids=["another contract", "NaN", "cannot run"],
)
def test_there_is_a_message_without_a_largest_error_too(other: Any, words: str) -> None:
    with pytest.raises(bnfold.NotEquivalentError, match=words):
        bnfold.assert_equivalent(scaled(2.0), other)


def test_outputs_that_differ_in_their_names_alone_are_paired() -> None:
    found = bnfold.assert_equivalent(scaled(2.0), scaled(2.0, "z"))
    assert any("paired by position" in note for note in found.notes)


def test_what_was_not_compared_is_no_agreement() -> None:
    strange, other = (
        model(f"agraph (seq(float[N,4]) x) => (int64 y) {{ {body} }}").SerializeToString()
        for body in ("y = SequenceLength(x)", "n = SequenceLength(x) y = Abs(n)")
    )
    with pytest.raises(bnfold.NotEquivalentError, match=r"was not verified against.*\[not-verified\]"):
        bnfold.assert_equivalent(strange, other)
    assert bnfold.assert_equivalent(strange, strange).verdict == "proved"


def test_a_mistake_of_the_caller_is_no_failed_assertion() -> None:
    with pytest.raises(UsageError):
        bnfold.assert_equivalent(scaled(1.0), scaled(1.0), rtol={"nothing": 1.0})
    with pytest.raises(ProviderError):
        bnfold.assert_equivalent(scaled(1.0), scaled(1.0), providers=["cuda"])


# --- a module as the reference ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_cnn", "siamese", "mlp", "conv1d", "sequence_mlp", "unet"])
def test_an_export_is_equivalent_to_its_module_and_a_wrong_fold_of_it_is_not(name: str) -> None:
    module, proto = architectures.trained(name), architectures.exported(name).proto
    assert bnfold.assert_equivalent(module, proto).measurements
    folded = bnfold.optimize(proto).model
    assert bnfold.verify(module, folded).verdict is Verdict.EQUIVALENT
    folds = planted.Folds(proto)
    if folds.sites:
        assert bnfold.verify(module, folds.wrong(0, "epsilon of another framework")).verdict is Verdict.NOT_EQUIVALENT


def test_an_export_in_train_mode_is_compared_with_evaluation() -> None:
    module = copy.deepcopy(architectures.trained("small_cnn")).train()
    frozen = bnfold.freeze(architectures.exported_in_train_mode("torchscript", 18).proto, verify=False).model
    statistics = {name: numpy_helper.to_array(t) for t in frozen.graph.initializer for name in [t.name]}
    for name, buffer in module.named_buffers():
        if name in statistics:
            buffer.copy_(torch.from_numpy(statistics[name].copy()))
    assert bnfold.verify(module, frozen).verdict is Verdict.EQUIVALENT
    assert module.training


def test_every_part_of_the_module_keeps_the_mode_it_had() -> None:
    module = copy.deepcopy(architectures.trained("small_cnn"))
    module.train()
    module[1].eval()
    modes = [part.training for part in module.modules()]
    before = copy.deepcopy(module.state_dict())
    bnfold.verify(module, architectures.exported("small_cnn").proto)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError(f"I do not work on {len(x)}")

    failing = Failing().train()
    found = bnfold.verify(failing, scaled(1.0))
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "I do not work" in found.explanation
    assert failing.training


class Two(nn.Module):
    """Parameters in another order than the graph's inputs."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.form = form

    def forward(self, b: Tensor, a: Tensor) -> Any:
        return self.form(a - b, a + b)


class InOrder(Two):
    """Parameters of other names: the order counts."""

    def forward(self, first: Tensor, second: Tensor) -> Any:
        return self.form(first - second, first + second)


TWO = "agraph (float[N,3] a, float[N,3] b) => (float[N,3] y, float[N,3] z) { y = Sub(a, b) z = Add(a, b) }"
FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda y, z: (y, z),
    "list in a tuple, and None": lambda y, z: ([y, None], z),
    "mapping in another order": lambda y, z: {"z": z, "y": y},
    "mapping with other names": lambda y, z: {"first": y, "second": z},
}


@pytest.mark.parametrize("kind", [Two, InOrder])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_inputs_and_outputs_find_each_other(kind: type[Two], form: Callable[[Tensor, Tensor], Any]) -> None:
    assert bnfold.verify(kind(form), model(TWO)).verdict is Verdict.EQUIVALENT


WRONG_FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "swapped": (lambda y, z: (z, y), "differs by"),
    "one too few": (lambda y, _: y, "the reference does not return it"),
    "one too many": (lambda y, z: (y, z, y), "output 2 of the module"),
    "another type": (lambda y, z: (y, z.double()), "it is float32, not float64"),
    "another shape": (lambda y, z: (y, z[:, None]), "its shape"),
}


@pytest.mark.parametrize(("form", "words"), WRONG_FORMS.values(), ids=WRONG_FORMS)
def test_outputs_that_do_not_correspond_are_not_equivalent(form: Callable[[Tensor, Tensor], Any], words: str) -> None:
    found = bnfold.verify(InOrder(form), model(TWO))
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert words in found.explanation


def test_integers_booleans_and_other_precisions_go_in_and_out() -> None:
    class Mixed(nn.Module):
        def forward(self, i: Tensor, c: Tensor, h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
            return i + 1, ~c, h * 2, w * 2

    body = (
        "agraph (int64[N] i, bool[N] c, float16[N,5] h, bfloat16[N,5] w) "
        "=> (int64[N] j, bool[N] d, float16[N,5] k, bfloat16[N,5] v) "
        "<int64 one = {1}, float f = {2}> "
        "{ j = Add(i, one) d = Not(c) k = Add(h, h) g = Cast<to=1>(w) m = Mul(g, f) v = Cast<to=16>(m) }"
    )
    found = bnfold.verify(Mixed(), model(body))
    assert found.verdict is Verdict.EQUIVALENT, found.explanation
    assert {m.dtype for m in found.measurements} == {"int64", "bool", "float16", "bfloat16"}


def test_what_pytorch_cannot_take_is_said() -> None:
    text = model("agraph (string[N] s) => (string[N] t) { t = Identity(s) }")
    found = bnfold.verify(nn.Identity(), text)
    assert found.verdict is Verdict.NOT_VERIFIED
    assert "text" in found.explanation
    overridable = model("agraph (float[N,4] x) => (float[N,4] y) <float[4] w = {1, 1, 1, 1}> { y = Mul(x, w) }")
    overridable.graph.input.append(helper.make_tensor_value_info("w", 1, [4]))
    found = bnfold.verify(nn.Identity(), overridable)
    assert found.verdict is Verdict.EQUIVALENT
    assert any("overrides an initializer" in note for note in found.notes)


def test_the_noise_rule_takes_the_module_in_float64_as_the_truth() -> None:
    """A deep net whose rounding exceeds the tolerance is not accused, and the module itself says how much it rounds."""
    module, proto = architectures.trained("conformer"), architectures.exported("conformer").proto
    reference = ModuleReference(module, proto)
    feed = architectures.exported("conformer").feeds
    truth = reference.truth()(feed, ["output"])["output"]
    assert truth.dtype == np.float64
    with reference.running(None) as runner:
        own = runner.run(feed)["output"]
    assert 0 < np.abs(truth - own).max() < 1e-4
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_a_module_without_a_float64_form_has_no_truth() -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float()

    with pytest.raises(Unknowable, match="float32"):
        ModuleReference(Stubborn(), model("agraph (float[N] x) => (float[N] y) { y = Relu(x) }")).truth()(
            {"x": np.ones(3, np.float32)}, ["y"]
        )


def test_torchscript_and_exported_programs_are_modules_too() -> None:
    module, proto = architectures.trained("mlp"), architectures.exported("mlp").proto
    example = torch.randn(3, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its deprecation
        traced = torch.jit.trace(module, example)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},)).module()
    for each in (traced, program):
        assert bnfold.verify(each, proto).verdict is Verdict.EQUIVALENT


def test_a_module_is_a_reference_and_no_candidate() -> None:
    with pytest.raises(UsageError, match="a model is a path"):
        bnfold.verify(scaled(1.0), nn.Identity())


def test_two_onnx_models_are_compared_without_torch() -> None:
    code = (
        "import sys, bnfold, onnx.parser as p; head = '<ir_version: 9, opset_import: [\"\" : 17]> '; "
        "m = p.parse_model(head + 'a (float[N] x) => (float[N] y) { y = Relu(x) }'); "
        "bnfold.assert_equivalent(m, m); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
