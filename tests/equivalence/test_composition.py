"""A piece is composed and compared number by number: maps that moved hold, wherever they went, and slips break.

Each row is proved twice: as it is, and by evaluating both pieces, which shares nothing with composing them.
"""

import numpy as np
import onnx.reference
import pytest
from onnx import ModelProto, numpy_helper, parser

import bnfold
from bnfold.equivalence import Standing, prove
from bnfold.equivalence.numbers import kernels
from bnfold.equivalence.numbers.constant_expressions import evaluate
from bnfold.equivalence.numbers.float64 import Unknowable
from bnfold.equivalence.proofs import composition, piece
from bnfold.equivalence.proofs import model as whole
from tests.fold_models import CONSTANTS, INPUTS, build, numbers

BN = "BatchNormalization"
MORE = {
    **CONSTANTS,
    "g": np.abs(CONSTANTS["g"]),
    "k": numbers(5, 4, 1, 1),
    "t": numbers(3, 4, 2, 2),
    "w2": numbers(4, 3, 3, 3, seed=5),
    "flat": numbers(4, 6, seed=6),
    "g_3": numbers(3, seed=21),
    "h_3": numbers(3, seed=22),
    "h0": np.zeros(4, np.float32),
    "w_one": numbers(1, 3, 3, 3, seed=8),
    "s4": numbers(4, 1, 1, seed=7),
    "zero": np.array([0]),
    "two": np.array([2]),
    "four": np.array([4]),
    "one": np.array([1]),
}
MOVED = {
    "behind Conv": f"c = Conv(x, w, b) y = {BN}(c, g, h, m, v)",
    "behind ConvTranspose": "c = Conv(x, w) n = Neg(c) d = ConvTranspose(n, t) r = Relu(d) y = Mul(r, r)",
    "four operators": "c = Conv(x, w) d = Sub(c, s4) e = Div(d, s4) f = Mul(e, s4) y = Add(f, s4)",
    "into two branches": f"c = Conv(x, w, b) d = Conv(x, w2) a = Add(c, d) y = {BN}(a, g, h, m, v)",
    "through a maximum": f"c = Conv(x, w, b) p = MaxPool<kernel_shape=[2,2]>(c) y = {BN}(p, g, h, m, v)",
    "through an average": f"c = Conv(x, w, b) p = AveragePool<kernel_shape=[2,2]>(c) y = {BN}(p, g, h, m, v)",
    "through Concat": "c = Conv(x, w, b) d = Conv(x, w2) a = Concat<axis=1>(c, d) y = Mul(a, eight)",
    "in front of Conv": f"r = Conv(x, w) c = {BN}(r, g, h, m, v) y = Conv(c, k)",
    "across Relu": f"a = Conv(x, w) e = Relu(a) c = {BN}(e, g, h, m, v) r = Relu(c) d = Conv(r, k) y = Add(d, c)",
}

# What no evaluation on impulses can show, since it is not linear.
NOT_LINEAR = {
    "behind InstanceNormalization": f"c = InstanceNormalization(x, g_3, h_3) y = {BN}(c, g3, h3, m3, v3)",
    "into one factor": f"d = Conv(x, w, b) e = Sigmoid(d) f = Conv(x, w2) c = Mul(e, f) y = {BN}(c, g, h0, h0, v)",
    "into the numerator": (
        f"d = Conv(x, w, b) e = Sigmoid(d) i = Add(e, s4) f = Conv(x, w2) c = Div(f, i) y = {BN}(c, g, h0, h0, v)"
    ),
    "into one factor, the other of one channel": (
        f"d = Conv(x, w_one) e = Sigmoid(d) f = Conv(x, w2) c = Mul(e, f) y = {BN}(c, g, h0, h0, v)"
    ),
}


def folded(text: str) -> tuple[ModelProto, ModelProto]:
    model = build(text, inputs=INPUTS, constants={**MORE, "eight": numbers(8, 1, 1)})
    return model, bnfold.optimize(model, verify=False).model


def standings(before: ModelProto, after: ModelProto) -> set[Standing]:
    return {proof.standing for proof in prove(before, after)}


def dense_block(layers: int) -> tuple[str, dict[str, np.ndarray]]:
    """Each layer normalizes all that came before, as a DenseNet does: scales move across Relu, shifts stay."""
    nodes, constants, channels, now = "x0 = Conv(x, w)", dict(MORE), 4, "x0"
    for at in range(1, layers + 1):
        for name, low in (("g", 0.5), ("h", -1.0), ("m", -1.0), ("v", 0.5)):
            constants[f"{name}{at}"] = numbers(channels, low=low, high=2.0, seed=10 * at + len(name))
        constants[f"w{at}"] = numbers(2, channels, 1, 1, seed=at)
        statistics = ", ".join(f"{name}{at}" for name in "ghmv")
        nodes += f" b{at} = {BN}({now}, {statistics}) r{at} = Relu(b{at}) c{at} = Conv(r{at}, w{at})"
        nodes += f" x{at} = Concat<axis=1>({now}, c{at})"
        channels, now = channels + 2, f"x{at}"
    return f"{nodes} y = Identity({now})", constants


TRANSPOSED = (
    "c = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(c) s = Mul(t, row) y1 = Add(s, row) r = Relu(y1) "
    "u = Transpose<perm=[0,3,1,2]>(r) d = Conv(u, k) f = Transpose<perm=[0,2,3,1]>(d) e = Mul(f, row5) y = Add(e, row5)"
)


@pytest.mark.parametrize("kind", ["dense", "transposed"])
def test_only_what_is_off_is_given_up_and_each_change_is_proved_by_itself(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A value that keeps its name and carries another scale takes no right pairs with it, and nothing is run."""

    def refuse(*_: object) -> None:
        raise AssertionError("not necessary")

    monkeypatch.setattr(piece, "_evaluated", refuse)
    monkeypatch.setattr(whole, "_all_at_once", refuse)
    text, constants = dense_block(6)
    if kind == "transposed":
        text, constants = TRANSPOSED, {**MORE, "row": numbers(4, seed=8), "row5": numbers(5, seed=9)}
    before = build(text, inputs=INPUTS, constants=constants)
    result = bnfold.optimize(before, verify=False)
    found = prove(before, result.model)
    assert {proof.standing for proof in found} == {Standing.HOLDS}
    assert len(found) >= (6 if kind == "dense" else 2)


SHUFFLE = "r = Reshape({0}, split) t = Transpose<perm=[0,2,1,3,4]>(r) q = Reshape(t, merged)"
REARRANGED = {
    "a channel shuffle": f"c = Conv(x, w8) {SHUFFLE.format('c')} y = {BN}(q, g8, h8, m8, v8)",
    "a shuffle of groups that are shuffled": (
        f"c = Conv(x, w8) {SHUFFLE.format('c')} f = Reshape(q, other) u = Transpose<perm=[0,3,4,2,1]>(f) "
        f"o = Reshape(u, last) y = Mul(o, row8)"
    ),
    "a shuffle between two scales": (
        f"a = Conv(x, w) n = {BN}(a, g, h, m, v) e = Relu(n) n2 = Neg(n) c = Conv(e, k8) {SHUFFLE.format('c')} "
        f"p = {BN}(q, g8, h8, m8, v8) o = Relu(p) z = ReduceMax(n2) y = Add(o, z)"
    ),
    "channels in another order": f"c = Conv(x, w8) i = Gather<axis=1>(c, order) y = {BN}(i, g8, h8, m8, v8)",
    "flattened and picked for a Gemm": (
        f"a = Conv(x, w) b = {BN}(a, g, h, m, v) d = Add(b, b) e = Relu(b) p = GlobalAveragePool(e) "
        "f = Reshape(p, flat) i = Gather<axis=-1>(f, picked) o = Gemm(i, w_more) z = ReduceMax(d) y = Add(o, z)"
    ),
    "rows of a batch flattened for a normalization": (
        f"c = Conv(x, w8) r = Reshape(c, rows) t = Transpose<perm=[0,2,1]>(r) p = MatMul(t, m88) "
        f"f = Flatten<axis=-1>(p) n = {BN}(f, g8, h8, m8, v8) y = Relu(n)"
    ),
    "maps of one position flattened": (
        f"c = Conv(x, w8) p = GlobalAveragePool(c) f = Flatten(p) y = {BN}(f, g8, h8, m8, v8)"
    ),
    "axes put in and taken away": (
        f"c = Conv(x, w8) u = Unsqueeze(c, behind_and_in_front) q = Squeeze(u, behind_and_in_front) "
        f"y = {BN}(q, g8, h8, m8, v8)"
    ),
    "channels that inference does not know": (
        "c = Conv(x, w8) a = Unsqueeze(first, zero) b = Unsqueeze(fifth, zero) s = Slice(c, a, b, one) d = Sigmoid(s) "
        f"n = {BN}(d, g, h, m, v) e = Relu(n) o = Conv(e, k) y = Tanh(o)"
    ),
    "a map of one axis, and of two": (
        f"c = Conv(x, w8) r = Reshape(c, rows) u = Unsqueeze(r, two) n = {BN}(u, g8, h8, m8, v8) e = Relu(n) "
        "q = Squeeze(e, two) y = Tanh(q)"
    ),
}
MOVED_ABOUT = {
    **MORE,
    "w8": numbers(8, 3, 3, 3, seed=31),
    "k8": numbers(8, 4, 1, 1, seed=32),
    **{name: numbers(8, low=0.5, high=2.0, seed=at) for at, name in enumerate(("g8", "h8", "m8", "v8"), 33)},
    "row8": numbers(8, low=0.5, high=2.0, seed=37),
    "split": np.array([-1, 2, 4, 4, 5]),
    "merged": np.array([-1, 8, 4, 5]),
    "other": np.array([0, 4, 2, 20, 1]),
    "last": np.array([0, 20, 1, 8]),
    "order": np.array([3, -1, 0, 6, 2, 4, 1, 5]),
    "flat": np.array([0, -1]),
    "picked": np.array([3, 0, -1, 2, 1, 0]),
    "w_more": numbers(6, 5, seed=38),
    "rows": np.array([0, 8, -1]),
    "m88": numbers(8, 8, seed=39),
    "behind_and_in_front": np.array([-1, 0]),
    "first": np.array(0),
    "fifth": np.array(4),
}


@pytest.mark.parametrize("text", REARRANGED.values(), ids=REARRANGED)
def test_channels_are_followed_where_axes_are_split_permuted_and_merged(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a ShuffleNet and a CondenseNet: nothing is evaluated, and each weight of the result counts."""
    before = build(text, inputs=INPUTS, constants=MOVED_ABOUT)
    after = bnfold.optimize(before, verify=False).model
    assert before.graph.node != after.graph.node
    with monkeypatch.context() as patched:
        patched.setattr(piece, "_evaluated", lambda *_: pytest.fail("not necessary"))
        assert standings(before, after) == {Standing.HOLDS}
    for index, tensor in enumerate(after.graph.initializer):
        array = numpy_helper.to_array(tensor).copy()
        if array.dtype == np.float32 and array.ndim > 1 and len(array) > 1:
            array[[0, 1]] = array[[1, 0]]  # a scale that went to the wrong channel
            wrong = ModelProto()
            wrong.CopyFrom(after)
            wrong.graph.initializer[index].raw_data = array.tobytes()
            assert standings(before, wrong) != {Standing.HOLDS}, tensor.name


def test_a_wrong_scale_among_values_that_were_given_up_breaks_the_proof() -> None:
    text, constants = dense_block(4)
    before = build(text, inputs=INPUTS, constants=constants)
    after = bnfold.optimize(before, verify=False).model
    weight = next(tensor for tensor in after.graph.initializer if list(tensor.dims) == [2, 8, 1, 1])
    wrong = numpy_helper.to_array(weight).copy()
    wrong[1, 3] *= 1.001
    weight.CopyFrom(numpy_helper.from_array(wrong, weight.name))
    assert Standing.BROKEN in standings(before, after)


TRAINED = f"y, mean, variance = {BN}<training_mode=1>(c, g, h, m, v)"
WITHOUT_MEAN = {
    "statistics of the batch": (TRAINED, True),
    "statistics of the batch, the variance read": (f"{TRAINED} y2 = Identity(variance)", True),
    "statistics of the batch, the mean read": (f"{TRAINED} y2 = Identity(mean)", False),
    "InstanceNormalization": ("y = InstanceNormalization(c, g, h)", True),
    "its own statistics": (f"y = {BN}(c, g, h, m, v)", False),
    "LayerNormalization": ("y = LayerNormalization<axis=1>(c, one)", False),
}


@pytest.mark.parametrize(("behind", "right"), WITHOUT_MEAN.values(), ids=WITHOUT_MEAN)
def test_a_bias_goes_where_the_mean_of_each_channel_is_taken_out(behind: str, right: bool) -> None:
    """Nothing can be seen of it in the runtime: where a channel is constant, rounding alone is left, and amplified."""
    constants = {**MORE, "one": np.ones((4, 4, 5), np.float32)}

    def with_(front: str) -> ModelProto:
        found = build(f"c = {front} {behind}", inputs=INPUTS, constants=constants)
        if "y2" in behind:
            found.graph.output.add().name = "y2"
            found.graph.output[-1].type.tensor_type.elem_type = 1
        return found

    before = with_("Conv(x, w, b)")
    assert (standings(before, with_("Conv(x, w)")) == {Standing.HOLDS}) is right
    doubled = with_("Conv(x, w)")
    for tensor in doubled.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(2 * constants["w"], "w"))
    assert Standing.HOLDS not in {proof.standing for proof in prove(before, doubled)}


def uncomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate every piece."""

    def refuse(*_: object) -> None:
        raise composition.Uncomposed("not now")

    monkeypatch.setattr(piece, "_composed", refuse)


@pytest.mark.parametrize("text", MOVED.values(), ids=MOVED)
def test_a_right_fold_holds_either_way(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = folded(text)
    assert standings(before, after) <= {Standing.HOLDS}
    uncomposed(monkeypatch)
    assert standings(before, after) <= {Standing.HOLDS}


@pytest.mark.parametrize("text", NOT_LINEAR.values(), ids=NOT_LINEAR)
def test_a_fold_beside_what_is_not_linear_holds(text: str) -> None:
    before, after = folded(text)
    assert BN not in {node.op_type for node in after.graph.node}
    assert standings(before, after) == {Standing.HOLDS}


@pytest.mark.parametrize("text", (MOVED | NOT_LINEAR).values(), ids=MOVED | NOT_LINEAR)
def test_no_weight_may_be_off(text: str) -> None:
    """Each stored float of the result in turn is wrong by a thousandth in one place: none of them holds."""
    before, after = folded(text)
    for index, tensor in enumerate(after.graph.initializer):
        array = numpy_helper.to_array(tensor).copy()
        if array.dtype != np.float32:
            continue
        wrong = ModelProto()
        wrong.CopyFrom(after)
        array.reshape(-1)[-1] *= 1.001
        wrong.graph.initializer[index].raw_data = array.tobytes()
        assert standings(before, wrong) != {Standing.HOLDS}, tensor.name


# --- a planted bug in one way of computing is caught by another


def test_a_composer_that_takes_another_axis_accuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = folded(MOVED["behind Conv"])
    right = composition.Term.per_output
    monkeypatch.setattr(composition.Term, "per_output", lambda term, vector: right(term, vector[..., ::-1]))
    (proof,) = prove(before, after)
    assert (proof.standing, "comes out differently" in proof.reason) == (Standing.UNDECIDED, True)


@pytest.mark.parametrize("what", ["W", "b"])
def test_a_composer_that_rounds_accuses_nobody(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = folded(MOVED["behind Conv"])
    name, right = ("_scaled", composition._scaled) if what == "W" else ("_shifted", composition._shifted)

    def rounded(form: composition.Linear, vector: np.ndarray, *more: np.ndarray) -> composition.Linear:
        return right(form, vector.astype(np.float16).astype(np.float64), *more)

    monkeypatch.setattr(composition, name, rounded)
    (proof,) = prove(before, after)
    assert proof.standing is Standing.UNDECIDED


POOL = "kernel_shape=[3,3], pads=[1,1,1,1]"
# The operator, it behind a scale whose inverse follows, and the axes along which that changes nothing.
SCALED = {
    "Relu": ("r = Relu(s)", "m = Mul(s, k) q = Relu(m)", "cwh"),
    "AveragePool": (f"r = AveragePool<{POOL}>(s)", f"m = Mul(s, k) q = AveragePool<{POOL}>(m)", "c"),
    "AveragePool with zeros": (
        f"r = AveragePool<{POOL}, count_include_pad=1>(s)",
        f"m = Mul(s, k) q = AveragePool<{POOL}, count_include_pad=1>(m)",
        "c",
    ),
    "MaxPool": (f"r = MaxPool<{POOL}>(s)", f"m = Mul(s, k) q = MaxPool<{POOL}>(m)", "c"),
    "GlobalAveragePool": ("r = GlobalAveragePool(s)", "m = Mul(s, k) q = GlobalAveragePool(m)", "c"),
    "GlobalMaxPool": ("r = GlobalMaxPool(s)", "m = Mul(s, k) q = GlobalMaxPool(m)", "c"),
    "Unsqueeze": ("r = Unsqueeze(s, two)", "m = Mul(s, k) q = Unsqueeze(m, two)", "hw"),
    "Squeeze": (
        "u = Unsqueeze(s, two) e = Relu(u) r = Squeeze(e, two)",
        "m = Mul(s, k) u = Unsqueeze(m, two) e = Relu(u) q = Squeeze(e, two)",
        "chw",
    ),
    "Flatten": ("r = Flatten<axis=3>(s)", "m = Mul(s, k) q = Flatten<axis=3>(m)", "w"),
    "Flatten of all but the batch": ("r = Flatten(s)", "m = Mul(s, k) q = Flatten(m)", ""),
    "a product": ("t = Cos(x) r = Mul(s, t)", "t = Cos(x) m = Mul(t, k) q = Mul(s, m)", "cwh"),
    "a product, one factor scaled along the channels": (
        "t = Cos(x) a = Mul(s, s4) r = Mul(a, t)",
        "t = Cos(x) z = Mul(s, s4) m = Mul(t, k) q = Mul(z, m)",
        "cwh",
    ),
}
AXES = {"c": (4, 1, 1), "h": (4, 1), "w": (4,)}


@pytest.mark.parametrize("behind", AXES)
@pytest.mark.parametrize("front", AXES)
@pytest.mark.parametrize(("was", "now", "right"), SCALED.values(), ids=SCALED)
def test_a_scale_is_undone_along_its_own_axis_alone(was: str, now: str, right: str, front: str, behind: str) -> None:
    """Channels, height and width have one size, so that numbers alone do not tell them apart."""
    scale = np.array([1, 2, 3, 4], np.float32)
    numbers_of_both = MORE | {"k": scale.reshape(AXES[front]), "i": (2 / scale).reshape(AXES[behind])}

    def model(text: str) -> ModelProto:
        return build(f"s = Sin(x) {text}", inputs={"x": "float[N,4,4,4]"}, constants=numbers_of_both)

    found = standings(model(f"{was} o = Add(r, r) y = Tanh(o)"), model(f"{now} l = Mul(q, i) y = Tanh(l)"))
    assert (found == {Standing.HOLDS}) == (front == behind and front in right)


@pytest.mark.parametrize("axis", AXES)
def test_a_scale_that_both_have_lies_along_one_axis(axis: str) -> None:
    scale, weight = np.array([1, 2, 3, 4], np.float32), numbers(3, 4, 1, 1)
    before, after = (
        build(text, inputs={"x": "float[N,4,4,4]"}, constants={"k": scale.reshape(shape), "w": both * weight})
        for text, shape, both in (
            ("s = Sin(x) m = Mul(s, k) r = Relu(m) c = Conv(r, w) y = Add(c, c)", AXES["c"], np.float32(1)),
            ("s = Sin(x) n = Mul(s, k) q = Relu(n) y = Conv(q, w)", AXES[axis], np.float32(2)),
        )
    )
    assert standings(before, after) == {Standing.HOLDS if axis == "c" else Standing.BROKEN}


def test_indices_are_compared_as_numbers_not_as_bytes() -> None:
    """One int64 and two int32 may have the same bytes."""
    text = "s = Sin(x) g = Gather<axis=1>(s, i) y = ReduceSum(g, one)"
    taken = np.array([1]), np.array([1, 0], np.int32)
    models = [build(text, inputs=INPUTS, constants=MORE | {"i": indices}) for indices in taken]
    assert Standing.HOLDS not in standings(*models)


@pytest.mark.parametrize("taken", [[0], [1], [0, 1], [2, 0], [0, 0], [-1]], ids=str)
def test_some_channels_of_a_scaled_value_have_their_scales(taken: list[int]) -> None:
    scale = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)
    before = build(
        "s = Sin(x) m = Mul(s, k) g = Gather<axis=1>(m, i) y = Relu(g)",
        inputs=INPUTS,
        constants={"i": np.array(taken), "k": scale},
    )
    for factor, expected in ((1, Standing.HOLDS), (1.5, Standing.BROKEN)):
        after = build(
            "s = Sin(x) n = Gather<axis=1>(s, i) g = Mul(n, k) y = Relu(g)",
            inputs=INPUTS,
            constants={"i": np.array(taken), "k": scale[taken] * np.float32(factor)},
        )
        assert standings(before, after) == {expected}


def unsqueezed() -> tuple[ModelProto, ModelProto]:
    """A constant whose axes are negative and unsorted, and what it means: [3, 1, 1, 2]."""
    head = '<ir_version: 7, opset_import: ["" : 11]> g (float[3,4,5,2] x) => (float[3,4,5,2] y)'
    before = parser.parse_model(f"{head} {{ u = Unsqueeze<axes=[-2,-3]>(c) i = Mul(x, u) y = Identity(i) }}")
    after = parser.parse_model(f"{head} {{ y = Mul(x, d) }}")
    values = numbers(3, 2)
    before.graph.initializer.append(numpy_helper.from_array(values, "c"))
    after.graph.initializer.append(numpy_helper.from_array(values.reshape(3, 1, 1, 2), "d"))
    return before, after


def test_axes_count_in_the_output_in_any_order() -> None:
    assert standings(*unsqueezed()) == {Standing.HOLDS}


def test_an_evaluator_that_takes_another_axis_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.Unsqueeze, "_run", lambda _self, x, **_: (x.reshape(1, 3, 1, 2),))
    proofs = prove(*unsqueezed())
    assert Standing.UNDECIDED in {proof.standing for proof in proofs}  # what rests on it holds, if it does
    assert any("inference" in proof.reason for proof in proofs)


def test_an_evaluator_that_rounds_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(_self: object, x: np.ndarray, **_: object) -> tuple[np.ndarray]:
        return (x.astype(np.float16).astype(x.dtype).reshape(3, 1, 1, 2),)

    monkeypatch.setattr(kernels.Unsqueeze, "_run", rounded)
    assert standings(*unsqueezed()) != {Standing.HOLDS}


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("y = Slice(x, a, b, c, d)", [[5, 4], [2, 1]]),
        ("s = Shape<start=-9, end=1>(x) y = Cast<to=1>(s)", [2]),
        ("s = Shape<start=1, end=-5>(x) y = Cast<to=1>(s)", []),
    ],
)
def test_constants_are_computed_by_the_text_of_the_specification(body: str, value: list[object]) -> None:
    """Backwards from behind the end to before the beginning, and ranges of axes that there are not."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 15]> g () => (y) {{ {body} }}')
    for name, array in {
        "x": np.float32([[0, 1, 2], [3, 4, 5]]),
        "a": np.array([9, 9]),
        "b": np.array([-9, 0]),
        "c": np.array([0, 1]),
        "d": np.array([-1, -1]),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    assert evaluate(model)["y"].tolist() == value


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("a = Constant<value=int64[1] {1}>() y = Concat<axis=-1>(a, v)", [1, 7, -1]),
        ("u = Unsqueeze(v, first) w = Identity(u) y = Squeeze(w, first)", [7, -1]),
        ("y = Unsqueeze(v, first)", [[7, -1]]),
    ],
)
def test_constants_in_order_need_no_onnx_reference(body: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes that exporters write for a Reshape."""
    monkeypatch.setattr(onnx.reference, "ReferenceEvaluator", None)
    found = evaluate(_of_vectors(body))["y"]
    assert (found.tolist(), found.dtype) == (value, np.int64)


@pytest.mark.parametrize("body", ["y = Concat<axis=1>(m, m)", "a = Neg(v) y = Concat<axis=0>(a, v)"])
def test_other_constants_ask_onnx_reference(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _of_vectors(body)
    assert evaluate(model)
    monkeypatch.setattr(onnx.reference, "ReferenceEvaluator", None)
    with pytest.raises(Unknowable):
        evaluate(model)


def _of_vectors(body: str) -> ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g () => (y) {{ {body} }}')
    for name, array in {"v": np.array([7, -1]), "m": np.array([[1, 2], [3, 4]]), "first": np.array([0])}.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model
