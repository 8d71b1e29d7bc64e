"""Bodies of If, Loop and Scan, and model-local functions: a fold may cross into a body, and a use there is a use."""

import numpy as np
import onnx
import pytest
from onnx import parser

from bnfold.decisions import Action
from bnfold.graph import Model
from bnfold.onnxfile import read
from bnfold.passes import FoldBatchNormOptions
from tests.fold_models import CONSTANTS, Row, assert_same_function, feeds, fold, numbers
from tests.oracle import evaluate

B = "BatchNormalization"
_TWELVE = "{1,2,3,4,5,6,7,8,9,10,11,12}"
_INPUTS = {"trips": "int64", "going": "bool", "steps": "float[5,N,3,6,7]", "state": "float[N,4,4,5]"}
_CONSTANTS = {
    "w44": numbers(4, 4, 1, 1),
    "count": np.array(3, np.int64),
    "yes": np.array(True),
    "w_same": numbers(3, 3, 1, 1),
}


def _if(then: str, other: str, shape: str = "N,C,H,W", before: str = "") -> str:
    return (
        f"{before} y = If(flag) <then_branch = t () => (float[{shape}] p) {{ {then} }},"
        f"else_branch = e () => (float[{shape}] q) {{ {other} }}>"
    )


def _model(text: str) -> onnx.ModelProto:
    return Row(text, _INPUTS, _CONSTANTS).model()


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


# text -> how many BatchNormalizations stay
FOLDS = {
    "both branches, each with a convolution": (
        _if(f"c = Conv(x, w, b) p = {B}(c, g, h, m, v)", f"d = Conv(x, w, b) q = {B}(d, g_2, h_2, m_2, v_2)"),
        0,
    ),
    "weights of its own": (
        _if(
            f"k = Constant<value = float[4,3,1,1] {_TWELVE}>() c = Conv(x, k) p = {B}(c, g, h, m, v)",
            "q = Conv(x, w, b)",
        ),
        0,
    ),
    "the convolution stands outside, its one reader inside": (
        _if(f"p = {B}(c, g, h, m, v)", "q = Conv(x, w)", before="c = Conv(x, w, b)"),
        0,
    ),
    "the convolutions that follow stand in both branches": (
        _if("p = Conv(n, w)", "q = Conv(n, w, b)", before=f"n = {B}(x, g3, h3, m3, v3)"),
        0,
    ),
    "the convolutions that follow stand inside and outside": (
        _if("p = Conv(n, w)", "q = Identity(o)", before=f"n = {B}(x, g3, h3, m3, v3) o = Conv(n, w, b)"),
        0,
    ),
    "a normalization inside merges with one outside": (
        _if(f"p = {B}(n, g, h, m, v)", "q = Conv(x, w)", before=f"c = Conv(x, w, b) n = {B}(c, g_2, h_2, m_2, v_2)"),
        0,
    ),
    "a Loop, weights from outside": (
        (
            "y = Loop(count, yes, x) <body = l (int64 i, bool ok, float[N,3,6,7] s) => (bool again, float[N,3,6,7] t) "
            f"{{ again = Identity(ok) c = Conv(s, w_same) t = {B}(c, g3, h3, m3, v3) }}>"
        ),
        0,
    ),
    "a Loop, in front of a convolution": (
        (
            "y = Loop(count, yes, x) <body = l (int64 i, bool ok, float[N,3,6,7] s) => (bool again, float[N,3,6,7] t) "
            f"{{ again = Identity(ok) n = {B}(s, g3, h3, m3, v3) t = Conv(n, w_same) }}>"
        ),
        0,
    ),
    "a Scan": (
        (
            "last, y = Scan<num_scan_inputs=1, body = l (float[N,4,4,5] s, float[N,3,6,7] e) => "
            f"(float[N,4,4,5] t, float[N,4,4,5] o) {{ c = Conv(e, w, b) n = {B}(c, g, h, m, v) t = Add(n, s) "
            "o = Identity(n) }>(state, steps)"
        ),
        0,
    ),
    "an If in an If": (
        _if(
            _if(f"c = Conv(x, w, b) p = {B}(c, g, h, m, v)", "q = Conv(x, w)").replace(" y = If", "p = If"),
            f"c = Conv(x, w) q = {B}(c, g, h, m, v)",
        ),
        0,
    ),
    "one branch cannot take it up": (
        _if("p = Conv(n, w)", "q = Sigmoid(n)", before=f"n = {B}(x, g3, h3, m3, v3)"),
        1,
    ),
    "the convolution outside is read in both branches": (
        _if(f"p = {B}(c, g, h, m, v)", "q = Sigmoid(c)", before="c = Conv(x, w, b)"),
        1,
    ),
    "a branch gives the convolution out": (
        _if(f"p = {B}(c, g, h, m, v)", "q = Sigmoid(x)", before="c = Conv(x, w, b)").replace("] q)", "] c)"),
        1,
    ),
    "a state of a Loop has no maker": (
        (
            "y = Loop(count, yes, x) <body = l (int64 i, bool ok, float[N,3,6,7] s) => (bool again, float[N,3,6,7] t) "
            f"{{ again = Identity(ok) t = {B}(s, g3, h3, m3, v3) }}>"
        ),
        1,
    ),
    "a Loop gives the convolution out as well": (
        (
            "y, z = Loop(count, yes, x) <body = l (int64 i, bool ok, float[N,3,6,7] s) => "
            "(bool again, float[N,3,6,7] t, float[N,3,6,7] c) "
            f"{{ again = Identity(ok) c = Conv(s, w_same) t = {B}(c, g3, h3, m3, v3) }}>"
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", FOLDS)
def test_bodies(name: str) -> None:
    text, stay = FOLDS[name]
    original = _model(text)
    done = fold(original)
    assert done.every_operator.count(B) == stay
    if _is_valid(original):  # the shape of what a Loop gives out cannot be inferred, so it stays open
        onnx.checker.check_model(done.model)
    kept = [decision for decision in done.decisions if decision.action is Action.KEPT]
    assert len(kept) == stay
    assert len(done.decisions) == text.count(f"{B}(")
    assert_same_function(original, done.model)
    assert not fold(done.model).modified


def test_the_decision_names_the_scope() -> None:
    model = _model(_if(f"c = Conv(x, w, b) p = {B}(c, g, h, m, v)", "q = Conv(x, w)"))
    model.graph.node[0].name = "choice"
    assert fold(model).decision().scope == "choice.then_branch"


def test_the_reason_names_the_reader_in_the_body() -> None:
    text = f"c = Conv(x, w, b) n = {B}(c, g, h, m, v) " + _if("p = Sigmoid(c)", "q = Sigmoid(n)")
    decision = fold(_model(text)).decision()
    assert decision.reason is not None
    assert (decision.reason.code, "read by p" in decision.detail) == ("OTHER_CONSUMER", True)


def test_a_weight_that_a_body_reads_is_copied() -> None:
    text = _if("p = Conv(x, w)", "q = Sigmoid(n)", before=f"c = Conv(x, w, b) n = {B}(c, g, h, m, v)")
    original = _model(text)
    done = fold(original)
    assert B not in done.every_operator
    np.testing.assert_array_equal(done.constant("w"), CONSTANTS["w"])
    assert_same_function(original, done.model)


# ------------------------------------------------------------------ functions


def _with_function(call: str, signature: str, body: str) -> onnx.ModelProto:
    model = parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 18, "acme" : 1]>
        g (float[N,3,6,7] x) => (float[N,4,4,5] y) {{ {call} }}
        <domain: "acme", opset_import: ["" : 18]> {signature} {{ {body} }}
    """)
    free = {name for node in model.graph.node for name in node.input} - {"x"}
    made = {name for node in model.graph.node for name in node.output}
    for name in sorted(free - made):
        model.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS[name], name))
    return model


_WEIGHT = "k = Constant<value = float[4,3,3,3] {" + ",".join(str(i % 7 - 3) for i in range(108)) + "}>()"
_VECTOR = "{} = Constant<value_floats = [0.5, 1.5, 2.5, 3.0]>()"
_OWN = f"{_WEIGHT} {' '.join(_VECTOR.format(name) for name in ('s', 't', 'u', 'r'))}"


def test_a_function_with_weights_of_its_own_folds_for_every_call() -> None:
    model = _with_function(
        "d = acme.block(x) e = Sigmoid(x) f = acme.block(e) y = Add(d, f)",
        "block (a) => (z)",
        f"{_OWN} c = Conv(a, k) z = {B}(c, s, t, u, r)",
    )
    done = fold(model)
    assert B not in done.every_operator
    assert done.decision().scope == "acme::block"
    onnx.checker.check_model(done.model)
    assert_same_function(model, done.model)
    assert not fold(done.model).modified


def test_a_call_takes_nothing_up() -> None:
    model = _with_function(f"d = acme.block(x) y = {B}(d, g, h, m, v)", "block (a) => (z)", f"{_WEIGHT} z = Conv(a, k)")
    done = fold(model)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "UNKNOWN_OPERATOR"


def test_weights_that_are_arguments_are_not_constant() -> None:
    model = _with_function(
        "y = acme.block(x, w, g, h, m, v)",
        "block (a, k, s, t, u, r) => (z)",
        f"c = Conv(a, k) z = {B}(c, s, t, u, r)",
    )
    done = fold(model)
    assert B in done.every_operator
    assert done.decision().reason is not None
    assert done.decision().reason.code == "PARAMETER_NOT_CONSTANT"


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [("training_mode = @train", "ATTRIBUTE_OF_CALLER"), ("epsilon = @train", "ATTRIBUTE_OF_CALLER")],
)
def test_an_attribute_of_the_caller_may_be_anything(attribute: str, reason: str) -> None:
    model = _with_function(
        f"y = acme.block<train = {'0' if 'mode' in attribute else '0.5'}>(x)",
        "block <train> (a) => (z)",
        f"{_OWN} c = Conv(a, k) z = {B}<{attribute}>(c, s, t, u, r)",
    )
    done = fold(model)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == reason


def test_a_group_of_the_caller_may_be_anything() -> None:
    model = _with_function(
        "y = acme.block<parts = 1>(x)",
        "block <parts> (a) => (z)",
        f"{_OWN} c = ConvTranspose<group = @parts>(a, k) z = {B}(c, s, t, u, r)",
    )
    done = fold(model)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "ATTRIBUTE_OF_CALLER"


def test_a_function_named_like_an_operator_is_a_call() -> None:
    model = _with_function(f"d = acme.Conv(x) y = {B}(d, g, h, m, v)", "Conv (a) => (z)", f"{_WEIGHT} z = Conv(a, k)")
    assert not fold(model).modified


def test_a_function_imports_its_own_operator_set() -> None:
    """The default of opset 6 is training mode, whatever the model around it imports."""
    model = _with_function("y = acme.block(x)", "block (a) => (z)", f"{_OWN} c = Conv(a, k) z = {B}(c, s, t, u, r)")
    assert fold(model).decision().action is Action.FOLDED
    model.functions[0].opset_import[0].version = 6
    done = fold(model)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "TRAIN_MODE"


@pytest.mark.parametrize("worth", [1, 1000])
def test_a_mode_of_the_caller_may_be_anything_in_a_body_of_the_function(
    worth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body has initializers of its own, so its normalizations can be read many at a time."""
    monkeypatch.setattr("bnfold.passes.normalization._WORTH_JOINING", worth)
    model = _with_function(
        "t = Constant<value = bool {1}>() y = acme.block<train = 0>(x, t)",
        "block <train> (a, when) => (z)",
        "z = If(when) <then_branch = p () => (float[N,C,H,W] q) "
        f"{{ c = Conv(a, w, b) q = {B}<training_mode = @train>(c, g, h, m, v) }}, "
        "else_branch = e () => (float[N,C,H,W] r) { r = Conv(a, w) }>",
    )
    for branch in model.functions[0].node[0].attribute:
        names = {name for node in branch.g.node for name in node.input} & set(CONSTANTS)
        branch.g.initializer.extend(onnx.numpy_helper.from_array(CONSTANTS[name], name) for name in sorted(names))
    done = fold(model)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "ATTRIBUTE_OF_CALLER"


_LOOP = (
    "n = BatchNormalization(x, g3, h3, m3, v3) y = Loop(trips, going, x) <body = l (int64 i, bool ci, float[N,3,6,7] "
    "/s|x/) => (bool co, float[N,3,6,7] r) { co = Identity(ci) c = Conv(n, w_same) r = Add(c, /s|x/) }>"
)


def test_a_body_whose_input_hides_the_name_that_its_convolution_would_read() -> None:
    """In the body `x` is the state of the loop, not what is normalized outside."""
    row = Row(_LOOP.replace("g3, h3, m3", "g3, o3, o3"), _INPUTS, {**_CONSTANTS, "o3": np.zeros(3, np.float32)})
    good = fold(row.good().model())
    assert B not in good.every_operator
    bad = fold(row.bad().model())
    assert not bad.modified
    assert bad.decision().reason is not None
    assert bad.decision().reason.code == "NAME_TAKEN"


def test_a_shift_that_stays_in_front_of_a_body_that_hides_the_name() -> None:
    row = Row(_LOOP, _INPUTS, _CONSTANTS)
    assert fold(row.good().model()).operators == ["Loop"]
    original = row.bad().model()
    done = fold(original)
    assert done.operators == ["Add", "Loop"]
    fed = feeds(original, 2) | {"trips": np.array(2), "going": np.array(True)}
    np.testing.assert_allclose(evaluate(done.model, fed)["y"], evaluate(original, fed)["y"], rtol=0, atol=1e-5)


def test_merging_in_front_of_a_body_that_hides_the_name() -> None:
    """Nothing can be folded, and the Mul cannot go into the normalization: its readers would read `x`."""
    text = _LOOP.replace("n = BatchNormalization(x,", "a = Mul(x, k3) n = BatchNormalization(a,")
    text = text.replace("Conv(n, w_same)", "Sigmoid(n)")
    row = Row(text, _INPUTS, {**_CONSTANTS, "k3": numbers(3, 1, 1)})
    assert fold(row.good().model()).operators == [B, "Loop"]
    bad = fold(row.bad().model())
    assert not bad.modified
    assert bad.decision().action is Action.KEPT


def test_lowering_in_front_of_a_body_that_hides_the_name() -> None:
    """A Shape in the body looks at the shape of `a`, which would become that of the state."""
    text = _LOOP.replace("n = BatchNormalization(x,", "a = Mul(x, k3) n = BatchNormalization(a,").replace(
        "c = Conv(n, w_same) r = Add(c, ", "c = Shape(a) f = Expand(one, c) e = Add(f, n) r = Add(e, "
    )
    constants = {**_CONSTANTS, "k3": numbers(3, 1, 1), "one": numbers(1)}
    row = Row(text, _INPUTS, constants, options=FoldBatchNormOptions(lower=True))
    good = row.good()
    assert fold(good.model(), good.options).decision().action is not Action.KEPT
    bad = row.bad()
    done = fold(bad.model(), bad.options)
    assert not done.modified
    assert done.decision().action is Action.KEPT


def test_lowering_alone_in_front_of_a_body_that_hides_the_name() -> None:
    """One operator becomes two in its place: nobody has to read `x` instead."""
    row = Row(_LOOP.replace("Conv(n, w_same)", "Sigmoid(n)"), _INPUTS, _CONSTANTS).bad()
    done = fold(row.model(), FoldBatchNormOptions(lower=True))
    assert done.operators == ["Mul", "Add", "Loop"]


def test_a_body_in_between_that_has_the_name_of_a_merged_output() -> None:
    """The normalization must not make `z` before the If, in whose branch `z` is another value."""
    text = (
        "a = Sigmoid(x) n = BatchNormalization(a, g3, h3, m3, v3) "
        "t = If(flag) <then_branch = t () => (float[N,3,6,7] p) { /i|z/ = Relu(x) p = Neg(/i|z/) },"
        "else_branch = e () => (float[N,3,6,7] q) { q = Identity(x) }> z = Mul(n, k3) y = Sigmoid(z)"
    )
    row = Row(text, outputs=("y", "t"), constants={"k3": numbers(3, 1, 1)})
    assert fold(row.good().model()).operators == ["Sigmoid", B, "If", "Sigmoid"]
    assert not fold(row.bad().model()).modified


def test_a_body_in_between_that_has_a_value_of_the_same_name() -> None:
    """The convolution must not make `n` before the If, in whose branch `n` is another value."""
    text = (
        "d = Conv(x, w, b) t = If(flag) <then_branch = t () => (float[N,3,6,7] p) { /i|n/ = Relu(x) p = Neg(/i|n/) },"
        "else_branch = e () => (float[N,3,6,7] q) { q = Identity(x) }> n = BatchNormalization(d, g, h, m, v) "
        "y = Relu(n)"
    )
    row = Row(text, outputs=("y", "t"))
    for side in (row.good(), row.bad()):
        original = side.model()
        done = fold(original)
        assert B not in done.operators
        assert _is_valid(done.model)
        assert_same_function(original, done.model)
        Model(read(done.model.SerializeToString()))
