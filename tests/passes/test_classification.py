"""Every spelling of training mode, and every kind of normalization, is told for what it is."""

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, parser

from bnfold.decisions import Diagnosis, Reason, Refused
from bnfold.graph import Graph, Model
from bnfold.onnxfile import read
from bnfold.passes import FreezeBatchNorm
from bnfold.passes.classification import Kind, classify, dropout_mode, find_disguise, is_in_train_mode
from bnfold.passes.diagnosis import diagnose
from bnfold.passes.normalization import Mode
from tests.backend_cases import backend_cases
from tests.fold_models import Row

INITIAL = {
    "m0": np.zeros(4, np.float32),
    "v1": np.ones(4, np.float32),
    "empty": np.zeros(0, np.float32),
    "m_one_off": np.array([0, 0, 1e-30, 0], np.float32),
    "v_one_off": np.array([1, 1, 1, np.nextafter(np.float32(1), np.float32(2))], np.float32),
}
BN = "BatchNormalization"
T = f"y = {BN}<training_mode=1>"
WITHIN = f"k = Constant<value_ints=[1,4,6,7]>() r = Reshape(p, k) n = {BN}<training_mode=1>(r, g, h, m, v) "
WRAPPED = "l = Constant<value_ints=[2,2,-1]>() y = Reshape(n, l)"
KINDS = {
    # opset 1-6: is_test, absent means train
    "opset 1, is_test": (Kind.INFERENCE, f"y = {BN}<is_test=1, consumed_inputs=[0,0,0,1,1]>(c, g, h, m, v)", 1),
    "opset 1": (Kind.TRAIN, f"y = {BN}<consumed_inputs=[0,0,0,1,1]>(c, g, h, m, v)", 1),
    "opset 6, is_test": (Kind.INFERENCE, f"y = {BN}<is_test=1>(c, g, h, m, v)", 6),
    "opset 6, one output": (Kind.TRAIN, f"y = {BN}<is_test=0>(c, g, h, m, v)", 6),
    "opset 6, five outputs": (Kind.TRAIN, f"y, a, b, d, e = {BN}(c, g, h, m, v)", 6),
    # 7-13: any further output
    "opset 7": (Kind.INFERENCE, f"y = {BN}(c, g, h, m, v)", 7),
    "opset 7, five outputs": (Kind.TRAIN, f"y, a, b, d, e = {BN}(c, g, h, m, v)", 7),
    "opset 9, four outputs": (Kind.TRAIN, f"y, a, b, d = {BN}(c, g, h, m, v)", 9),
    "opset 13, five outputs": (Kind.TRAIN, f"y, a, b, d, e = {BN}(c, g, h, m, v)", 13),
    "opset 13, no names": (Kind.INFERENCE, f'y, "", "", "", "" = {BN}(c, g, h, m, v)', 13),
    # 14+: training_mode
    "opset 14, one output": (Kind.TRAIN, f"{T}(c, g, h, m, v)", 14),
    "opset 14, two outputs": (Kind.TRAIN, f"y, a = {BN}<training_mode=1>(c, g, h, m, v)", 14),
    "opset 15, three outputs": (Kind.TRAIN, f"y, a, b = {BN}<training_mode=1>(c, g, h, m, v)", 15),
    "opset 18": (Kind.INFERENCE, f"y = {BN}(c, g, h, m, v)", 18),
    "opset 18, training_mode 0": (Kind.INFERENCE, f"y = {BN}<training_mode=0>(c, g, h, m, v)", 18),
    # never updated: 0 and 1 in every channel, and only then
    "never updated": (Kind.NEVER_UPDATED, f"{T}(c, g, h, m0, v1)", 17),
    "never updated, opset 13": (Kind.NEVER_UPDATED, f"y, a, b, d, e = {BN}(c, g, h, m0, v1)", 13),
    "never updated, opset 6": (Kind.NEVER_UPDATED, f"y = {BN}(c, g, h, m0, v1)", 6),
    "one mean updated": (Kind.TRAIN, f"{T}(c, g, h, m_one_off, v1)", 17),
    "one variance updated": (Kind.TRAIN, f"{T}(c, g, h, m0, v_one_off)", 17),
    "initial but in inference": (Kind.INFERENCE, f"y = {BN}(c, g, h, m0, v1)", 17),
    # constant data
    "constant data": (Kind.CONSTANT_DATA, f"{T}(w, g3, h3, m3, v3)", 17),
    "constant data, never updated": (
        Kind.CONSTANT_DATA,
        f"k = Constant<value_ints=[1,4,27]>() r = Reshape(w, k) {T}(r, g, h, m0, v1)",
        17,
    ),
    "constant data in inference": (Kind.INFERENCE, f"y = {BN}(w, g3, h3, m3, v3)", 17),
    # InstanceNorm between two Reshapes
    "wrapped": (
        Kind.WRAPPED_INSTANCE_NORM,
        (
            "k = Constant<value_ints=[1,4,6,7]>() l = Constant<value_ints=[2,2,6,7]>() r = Reshape(p, k) "
            f"n, a, b = {BN}<training_mode=1>(r, g, h, m, v) y = Reshape(n, l)"
        ),
        17,
    ),
    "wrapped, with more rows": (
        Kind.TRAIN,
        (
            "k = Constant<value_ints=[2,4,3,7]>() l = Constant<value_ints=[2,2,6,7]>() r = Reshape(p, k) "
            f"n = {BN}<training_mode=1>(r, g, h, m, v) y = Reshape(n, l)"
        ),
        17,
    ),
    "wrapped, opset 4": (
        Kind.WRAPPED_INSTANCE_NORM,
        (
            f"r = Reshape<shape=[1,4,6,7]>(p) n = {BN}<consumed_inputs=[0,0,0,1,1]>(r, g, h, m, v) "
            "y = Reshape<shape=[2,2,6,7]>(n)"
        ),
        4,
    ),
    "wrapped, of vectors": (
        Kind.TRAIN,
        f"k = Constant<value_ints=[1,4]>() r = Reshape(square, k) n = {BN}<training_mode=1>(r, g, h, m, v) {WRAPPED}",
        17,
    ),
    "wrapped, to a computed shape": (
        Kind.TRAIN,
        f"r = Reshape(p, loose) n = {BN}<training_mode=1>(r, g, h, m, v) {WRAPPED}",
        17,
    ),
    "wrapped, Expand in front": (Kind.TRAIN, WITHIN.replace("Reshape(p, k)", "Expand(one, k)") + WRAPPED, 17),
    "wrapped, another's Reshape in front": (Kind.TRAIN, WITHIN.replace("Reshape(", "acme.Reshape(") + WRAPPED, 17),
    "wrapped, nothing in front": (Kind.TRAIN, f"n = {BN}<training_mode=1>(one, g, h, m, v) {WRAPPED}", 17),
    "wrapped, and an output itself": (
        Kind.TRAIN,
        WITHIN.replace("n =", "y =") + WRAPPED.replace("y =", "z =").replace("(n", "(y"),
        17,
    ),
    "wrapped, and unread": (Kind.TRAIN, WITHIN + "y = Relu(r)", 17),
    "not reshaped back": (
        Kind.TRAIN,
        f"k = Constant<value_ints=[1,4,6,7]>() r = Reshape(p, k) n = {BN}<training_mode=1>(r, g, h, m, v) y = Relu(n)",
        17,
    ),
    "one row, but no Reshape": (Kind.TRAIN, f"{T}(one, g, h, m, v)", 17),
    # batch statistics in disguise
    "batch statistics": (
        Kind.BATCH_STATISTICS,
        (
            "a = ReduceMean<axes=[0,2,3], keepdims=0>(c) b = ReduceMean<axes=[0,2,3]>(c) d = Sub(c, b) e = Mul(d, d) "
            f"f = ReduceMean<axes=[0,2,3], keepdims=0>(e) y = {BN}(c, g, h, a, f)"
        ),
        17,
    ),
    "batch statistics in training mode": (
        Kind.BATCH_STATISTICS,
        (
            "a = ReduceMean<axes=[0,2,3], keepdims=0>(c) b = ReduceMean<axes=[0,2,3]>(c) d = Sub(c, b) e = Mul(d, d) "
            f"f = ReduceMean<axes=[0,2,3], keepdims=0>(e) {T}(c, g, h, a, f)"
        ),
        17,
    ),
    "batch statistics between two Reshapes": (
        Kind.BATCH_STATISTICS,
        (
            "k = Constant<value_ints=[1,4,6,7]>() r = Reshape(p, k) a = ReduceMean<axes=[0,2,3], keepdims=0>(r) "
            f"n = {BN}(r, g, h, a, a) {WRAPPED}"
        ),
        17,
    ),
    "an average with an operand left out": (
        Kind.BATCH_STATISTICS,
        f'a = ReduceMean<keepdims=0>(c, "") y = {BN}(c, g, h, a, a)',
        18,
    ),
    "mean of an activation": (
        Kind.INFERENCE,
        f"r = Relu(c) a = ReduceMean<axes=[0,2,3], keepdims=0>(r) y = {BN}(c, g, h, a, a)",
        17,
    ),
    "another's average": (
        Kind.INFERENCE,
        f"a = acme.ReduceMean<axes=[0,2,3], keepdims=0>(c) i = ReduceMean(a) y = {BN}(c, g, h, i, i)",
        17,
    ),
    "no average": (Kind.INFERENCE, f"a = Flatten(c) y = {BN}(c, g, h, a, a)", 17),
    "an average too far away": (
        Kind.INFERENCE,
        (
            "a0 = ReduceMean<axes=[0,2,3], keepdims=0>(c) "
            + " ".join(f"a{i + 1} = Identity(a{i})" for i in range(40))
            + f" y = {BN}(c, g, h, a40, a40)"
        ),
        17,
    ),
    "batch statistics of constant data": (
        Kind.INFERENCE,  # all of it is constant
        f"a = ReduceSumSquare<axes=[0,2,3], keepdims=0>(w) y = {BN}(w, g3, h3, a, a)",
        17,
    ),
    "an average of constants": (
        Kind.INFERENCE,
        f"a = ReduceSumSquare<axes=[1,2,3], keepdims=0>(w) y = {BN}(c, g, h, a, a)",
        17,
    ),
    "statistics of no channels": (Kind.TRAIN, f"{T}(c, g, h, empty, empty)", 17),
    "mean of something else": (
        Kind.INFERENCE,
        (
            "a = ReduceMean<axes=[0,2,3], keepdims=0>(s) b = ReduceMean<axes=[0,2,3]>(s) d = Sub(s, b) e = Mul(d, d) "
            f"f = ReduceMean<axes=[0,2,3], keepdims=0>(e) y = {BN}(c, g, h, a, f)"
        ),
        17,
    ),
    "only the mean": (
        Kind.INFERENCE,
        f"a = ReduceMean<axes=[0,2,3], keepdims=0>(c) y = {BN}(c, g, h, a, v)",
        17,
    ),
}
INPUTS = {
    "c": "float[N,4,6,7]",
    "s": "float[N,4,6,7]",
    "p": "float[2,2,6,7]",
    "one": "float[1,4,6,7]",
    "square": "float[2,2]",
    "loose": "int64[4]",
}


def find(model: ModelProto, operator: str) -> tuple[NodeProto, Graph]:
    graph = Model(read(model)).main
    (node,) = (node for node in graph.nodes() if node.op_type == operator)
    return node, graph


def row(text: str, opset: int) -> ModelProto:
    return Row(text, inputs=INPUTS, constants=INITIAL, opset=opset, ir=3 if opset < 7 else 9).model()


@pytest.mark.parametrize("name", KINDS)
def test_each_spelling_has_its_kind(name: str) -> None:
    kind, text, opset = KINDS[name]
    assert classify(*find(row(text, opset), BN)) is kind


@pytest.mark.parametrize("statistic", ["m0", "v1"])
def test_statistics_that_a_caller_may_give_are_not_called_initial(statistic: str) -> None:
    model = row(f"{T}(c, g, h, m0, v1)", 17)
    model.graph.input.add(name=statistic).type.CopyFrom(model.graph.input[0].type)
    assert classify(*find(model, BN)) is Kind.TRAIN


LACKING = {"data": ("input", 0), "scale": ("input", 1), "a variance": ("input", 4), "an output": ("output", 0)}


@pytest.mark.parametrize("training", [0, 1])
@pytest.mark.parametrize("name", LACKING)
@pytest.mark.parametrize("left_out", [False, True])
def test_an_operator_that_lacks_an_operand_has_no_kind(name: str, left_out: bool, training: int) -> None:
    """What comes behind is missing, or the one is left out."""
    field, first = LACKING[name]
    node, graph = find(row(f"y = {BN}<training_mode={training}>(c, g, h, m, v)", 17), BN)
    if left_out:
        getattr(node, field)[first] = ""
    else:
        del getattr(node, field)[first:]
    with pytest.raises(Refused) as refusal:
        classify(node, graph)
    assert refusal.value.reason is Reason.MALFORMED
    assert diagnose(node, graph) == {}


def test_an_operator_with_an_operand_too_many_has_no_kind() -> None:
    node, graph = find(row(f"y = {BN}(c, g, h, m, v)", 17), BN)
    node.input.append("v")
    with pytest.raises(Refused) as refusal:
        classify(node, graph)
    assert refusal.value.reason is Reason.MALFORMED


def test_what_is_read_twice_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty squares have a million ways back to the data."""
    squares = " ".join(f"a{i + 1} = Mul(a{i}, a{i})" for i in range(20))
    node, graph = find(
        row(f"a0 = ReduceMean<axes=[0,2,3], keepdims=0>(c) {squares} y = {BN}(c, g, h, a20, a20)", 17), BN
    )
    asked: list[str] = []
    find_producer = graph.producer

    def counted(value: str) -> NodeProto | None:
        asked.append(value)
        assert len(asked) < 1000
        return find_producer(value)

    monkeypatch.setattr(graph, "producer", counted)
    assert classify(node, graph) is Kind.BATCH_STATISTICS


def test_the_cases_of_the_onnx_backend() -> None:
    cases = {case.name: case.model for case in backend_cases() if "test_batchnorm" in case.name}
    told = {name: classify(*find(model, BN)) for name, model in cases.items() if name.count("expanded") == 0}
    training = {name for name, kind in told.items() if kind is Kind.TRAIN}
    assert training == {"test_batchnorm_epsilon_training_mode", "test_batchnorm_example_training_mode"}
    assert set(told.values()) == {Kind.TRAIN, Kind.INFERENCE}
    assert len(told) == 4


DROPOUTS = {
    "opset 1": (Mode.TRAIN, "y = Dropout<consumed_inputs=[0]>(c)", 1),
    "opset 6": (Mode.TRAIN, "y = Dropout<ratio=0.3>(c)", 6),
    "opset 6, is_test": (Mode.INFERENCE, "y = Dropout<is_test=1>(c)", 6),
    "opset 7": (Mode.INFERENCE, "y = Dropout<ratio=0.3>(c)", 7),
    "opset 10, mask": (Mode.INFERENCE, "y, k = Dropout<ratio=0.3>(c)", 10),
    "opset 12": (Mode.INFERENCE, "y = Dropout(c, ratio)", 12),
    "opset 12, false": (Mode.INFERENCE, "y = Dropout(c, ratio, no)", 12),
    "opset 12, true": (Mode.TRAIN, "y = Dropout(c, ratio, yes)", 12),
    "opset 22, true, no ratio": (Mode.TRAIN, "y = Dropout(c, , yes)", 22),
    "opset 18, of an expression": (Mode.TRAIN, "i = Identity(yes) y = Dropout(c, ratio, i)", 18),
    "opset 18, the mode left out": (Mode.INFERENCE, 'y = Dropout(c, ratio, "")', 18),
    "opset 18, two modes": (None, "y = Dropout(c, ratio, modes)", 18),
    "opset 18, asked at run time": (None, "y = Dropout(c, ratio, flag)", 18),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_each_spelling_of_dropout(name: str) -> None:
    expected, text, opset = DROPOUTS[name]
    constants = {
        "ratio": np.float32(0.3),
        "yes": np.array(True),
        "no": np.array(False),
        "modes": np.array([True, True]),
    }
    inputs = {**INPUTS, "flag": "bool[]"}
    model = Row(text, inputs=inputs, constants=constants, opset=opset, ir=3 if opset < 7 else 9).model()
    assert dropout_mode(*find(model, "Dropout")) is expected


MODES = {
    "inference": (False, f"y = {BN}(c, g, h, m, v)", 17),
    "training": (True, f"{T}(c, g, h, m, v)", 17),
    "inference Dropout": (False, "y = Dropout(c)", 17),
    "training Dropout": (True, "y = Dropout(c)", 6),
    "a Dropout that is asked": (True, "y = Dropout(c, , flag)", 17),
    "another operator": (False, "y = Relu(c)", 6),
    "another's BatchNormalization": (False, "y = acme.BatchNormalization(c, g, h, m, v)", 6),
    "another's Dropout": (False, "y = acme.Dropout(c)", 6),
}


@pytest.mark.parametrize("name", MODES)
def test_what_may_run_in_training_mode(name: str) -> None:
    expected, text, opset = MODES[name]
    model = Row(text, inputs={**INPUTS, "flag": "bool[]"}, opset=opset, ir=3 if opset < 7 else 9).model()
    graph = Model(read(model)).main
    assert is_in_train_mode(graph.nodes()[0], graph) is expected


STATISTICS = "a = ReduceMean<axes=[/0|1/,2,3]>(c) d = Sub(c, a) e = Mul(d, d) f = ReduceMean<axes=[/0|1/,2,3]>(e) "
DISGUISES = {
    "divided": STATISTICS + "k = Add(f, eps) r = Sqrt(k) y = Div(d, r)",
    "times the reciprocal": STATISTICS + "k = Add(f, eps) r = Sqrt(k) q = Reciprocal(r) y = Mul(q, d)",
    "one over the root": STATISTICS + "k = Add(eps, f) r = Sqrt(k) q = Div(unit, r) y = Mul(d, q)",
    "channels last": STATISTICS.replace("2,3]", "1,2]").replace("|1/", "|3/")
    + "k = Add(f, eps) r = Sqrt(k) y = Div(d, r)",
    "a root by Pow": STATISTICS + "k = Add(f, eps) r = Pow(k, half) y = Div(d, r)",
    "squares by Pow": "a = ReduceMean<axes=[/0|1/,2,3]>(c) d = Sub(c, a) e = Pow(d, two) "
    "f = ReduceMean<axes=[0,2,3]>(e) k = Add(f, eps) r = Sqrt(k) y = Div(d, r)",
    "difference of squares": "a = ReduceMean<axes=[/0|1/,2,3]>(c) d = Sub(c, a) s = Mul(c, c) "
    "t = ReduceMean<axes=[0,2,3]>(s) u = Mul(a, a) f = Sub(t, u) k = Add(f, eps) r = Sqrt(k) y = Div(d, r)",
}
SMALL = {"eps": np.float32(1e-5), "two": np.float32(2), "unit": np.float32(1), "half": np.float32(0.5)}


@pytest.mark.parametrize("name", DISGUISES)
def test_batch_statistics_written_as_operators(name: str) -> None:
    pair = Row(DISGUISES[name], inputs=INPUTS, constants=SMALL, opset=13)
    for side, found in ((pair.good(), True), (pair.bad(), False)):
        graph = Model(read(side.model())).main
        seen = [disguise for node in graph.nodes() if (disguise := find_disguise(node, graph)) is not None]
        assert bool(seen) is found
        assert [(d.data, d.first.output[0], d.last.output[0]) for d in seen] == [("c", "d", "y")] * found


_KERAS = STATISTICS + "k = Add(f, eps) r = Sqrt(k) q = Reciprocal(r) j = Mul(q, column) "
KERAS = {
    "a gain": _KERAS + "l = Mul(/c|other/, j) i = Mul(a, j) o = Sub(column, i) y = Add(l, o)",
    "no gain": STATISTICS + "k = Add(f, eps) r = Sqrt(k) q = Reciprocal(r) l = Mul(q, c) y = Sub(l, a)",
    "a root of something else": _KERAS.replace("Sqrt(k)", "/Sqrt|Neg/(k)") + "y = Mul(c, j)",
}


@pytest.mark.parametrize("name", KERAS)
def test_batch_statistics_as_keras_writes_them(name: str) -> None:
    constants = {**SMALL, "column": np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1)}
    pair = Row(KERAS[name], inputs={**INPUTS, "other": INPUTS["c"]}, constants=constants, opset=13)
    for side, found in ((pair.good(), True), (pair.bad(), False)):
        graph = Model(read(side.model())).main
        seen = [disguise for node in graph.nodes() if (disguise := find_disguise(node, graph)) is not None]
        assert [disguise.data for disguise in seen] == ["c"] * found
        assert [decision.reason for decision in FreezeBatchNorm().run(Model(read(side.model())))] == [
            Reason.BATCH_STATISTICS
        ] * found


@pytest.mark.parametrize("last", ["Add(d, r)", "acme.Div(d, r)", "Div(d)"])
def test_what_does_not_divide_by_the_root_is_no_disguise(last: str) -> None:
    model = Row(DISGUISES["divided"], inputs=INPUTS, constants=SMALL, opset=13).good().model()
    model.graph.node[-1].CopyFrom(parser.parse_graph(f"g () => () {{ y = {last} }}").node[0])
    graph = Model(read(model)).main
    assert all(find_disguise(node, graph) is None for node in graph.nodes())


WHOLE = "a = ReduceMean(c, at) d = Sub(c, a) e = Mul(d, d) f = ReduceMean(e, at) k = Add(f, eps) r = Sqrt(k) "
DIVIDED, TIMES = f"{WHOLE} y = Div(d, r)", f"{WHOLE} q = Reciprocal(r) y = Mul(d, q)"
AXES = {
    "at": np.array([0, 2, 3]),
    "at_all": np.array([0, 1, 2, 3]),
    "from_end": np.array([-4, -2, -1]),
    "mixed": np.array([0, -2, -1]),
    "column": np.ones((4, 1, 1), np.float32),
}


def disguises(text: str) -> list[tuple[str, str, str]]:
    """Data, first and last value of each, at an opset where axes are an input."""
    inputs = {**INPUTS, "axes": "int64[3]", "to": "int64[D]"}
    graph = Model(read(Row(text, inputs=inputs, constants={**SMALL, **AXES}, opset=18).model())).main
    found = [each for node in graph.nodes() if (each := find_disguise(node, graph)) is not None]
    return [(each.data, each.first.output[0], each.last.output[0]) for each in found]


OTHER_SPELLINGS = {
    "divided": DIVIDED,
    "times the reciprocal": TIMES,
    "without epsilon": DIVIDED.replace("f = ReduceMean(e, at) k = Add(f, eps)", "s2 = Mul(c, c) "
    "t = ReduceMean(s2, at) u = Mul(a, a) k = Sub(t, u)"),
    "axes from the end": DIVIDED.replace("c, at", "c, from_end"),
    "a mean laid out as is computed": DIVIDED.replace("a = ReduceMean(c, at)", "a0 = ReduceMean<keepdims=0>(c, at) "
    "a = Reshape(a0, loose)"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_SPELLINGS)
def test_other_spellings_of_batch_statistics(name: str) -> None:
    assert disguises(OTHER_SPELLINGS[name]) == [("c", "d", "y")]


NO_DISGUISE = {  # what is replaced in one that is
    "a mean that is added": (DIVIDED, "Sub(c, a)", "Add(c, a)"),
    "a constant mean": (DIVIDED, "Sub(c, a)", "Sub(c, column)"),
    "a maximum": (DIVIDED, "a = ReduceMean", "a = ReduceMax"),
    "a mean of something else": (DIVIDED, "ReduceMean(c", "ReduceMean(s"),
    "a mean over all axes there are": (DIVIDED, "ReduceMean(c, at)", "ReduceMean(c)"),
    "a mean over the channels too": (DIVIDED, "ReduceMean(c, at)", "ReduceMean(c, at_all)"),
    "a mean over axes that are given at run time": (DIVIDED, "ReduceMean(c, at)", "ReduceMean(c, axes)"),
    "the root of a constant": (DIVIDED, "Sqrt(k)", "Sqrt(eps)"),
    "the root of a sum of constants": (DIVIDED, "Add(f, eps)", "Add(eps, two)"),
    "the root of a sum of variances": (DIVIDED, "Add(f, eps)", "Add(f, f)"),
    "the root of another average": (DIVIDED, "Mul(d, d)", "Mul(s, s)"),
    "no root": (DIVIDED, "Sqrt(k)", "Exp(k)"),
    "a constant deviation": (DIVIDED, "Div(d, r)", "Div(d, column)"),
    "a constant factor": (TIMES, "Mul(d, q)", "Mul(d, column)"),
    "times the root": (TIMES, "Reciprocal(r)", "Neg(r)"),
}


@pytest.mark.parametrize("name", NO_DISGUISE)
def test_what_is_no_disguise(name: str) -> None:
    whole, old, new = NO_DISGUISE[name]
    assert disguises(whole) == [("c", "d", "y")]
    assert whole.count(old) == 1
    assert disguises(whole.replace(old, new)) == []


def test_axes_from_the_end_tell_nothing_where_the_rank_is_unknown() -> None:
    text = f"u = Reshape(c, to) {DIVIDED}".replace("(c, a", "(u, a")
    assert disguises(text) == [("u", "d", "y")]
    assert disguises(text.replace("u, at", "u, mixed")) == []


@pytest.mark.parametrize(
    ("operator", "left"),
    [
        ("ReduceMean", 0),
        ("Sub", 1),
        ("Sub", 0),
        ("Add", 0),
        ("Sqrt", 0),
        ("Reciprocal", 0),
        ("Identity", 0),
        ("Mul", 0),
    ],
)
def test_operators_that_lack_operands_are_no_disguise(operator: str, left: int) -> None:
    text = TIMES.replace("a = ReduceMean(c, at)", "a0 = ReduceMean(c, at) a = Identity(a0)")
    model = Row(text, inputs=INPUTS, constants={**SMALL, **AXES}, opset=18).model()
    graph = Model(read(model)).main
    assert [node for node in graph.nodes() if find_disguise(node, graph) is not None] == graph.nodes()[-1:]
    node = next(node for node in graph.nodes() if node.op_type == operator)
    del node.input[left:]
    assert all(find_disguise(each, graph) is None for each in graph.nodes())


def test_a_layer_normalization_is_no_batch_normalization() -> None:
    text = "a = ReduceMean<axes=[-1]>(c) d = Sub(c, a) e = Mul(d, d) f = ReduceMean<axes=[-1]>(e) k = Add(f, eps) "
    graph = Model(read(Row(text + "r = Sqrt(k) y = Div(d, r)", inputs=INPUTS, constants=SMALL, opset=13).model())).main
    assert all(find_disguise(node, graph) is None for node in graph.nodes())


DIAGNOSES = {
    "nothing": (f"y = {BN}(c, g, h, m, v)", {}),
    "trained": (f"{T}(c, g, h, m, v)", {Diagnosis.EXPORTED_IN_TRAINING_MODE: ""}),
    "fixed to one image": (
        f"{T}(one1, g, h, m, v)",
        {Diagnosis.EXPORTED_IN_TRAINING_MODE: "", Diagnosis.ONE_VALUE_PER_CHANNEL: "at its fixed shape"},
    ),
    "vectors": (
        f"{T}(vectors, g, h, m, v)",
        {Diagnosis.EXPORTED_IN_TRAINING_MODE: "", Diagnosis.ONE_VALUE_PER_CHANNEL: "at batch size 1"},
    ),
    "two vectors": (f"{T}(pair, g, h, m, v)", {Diagnosis.EXPORTED_IN_TRAINING_MODE: ""}),
    "one vector, in inference": (f"y = {BN}(one1, g, h, m, v)", {}),
    "initial in inference": (f"y = {BN}(c, g, h, m0, v1)", {Diagnosis.INITIAL_STATISTICS: ""}),
    "initial in training": (
        f"{T}(c, g, h, m0, v1)",
        {Diagnosis.EXPORTED_IN_TRAINING_MODE: "", Diagnosis.INITIAL_STATISTICS: ""},
    ),
    "lost in the export": (f"y = {BN}(c, g, h, m0, m0)", {Diagnosis.LOST_STATISTICS: ""}),
    "quantized before": (
        f"p = DequantizeLinear(bytes, step) r = DequantizeLinear(levels, step) y = {BN}(r, p, h, m, v)",
        {Diagnosis.QUANTIZED_BEFORE_FOLDING: ""},
    ),
    "quantized on both sides": (
        (
            f"r = DequantizeLinear(levels, step) n = {BN}(r, g, h, m, v) q = QuantizeLinear(n, step)"
            " y = DequantizeLinear(q, step)"
        ),
        {Diagnosis.QUANTIZED_BEFORE_FOLDING: ""},
    ),
    "quantized data alone": (f"r = DequantizeLinear(levels, step) y = {BN}(r, g, h, m, v)", {}),
    "tiny variance": (f"y = {BN}(c, g, h, m, tiny)", {Diagnosis.TINY_VARIANCE: "1 of 4 channels, by up to 474"}),
    "tiny variance, tiny scale": (f"y = {BN}(c, small, h, m, tiny)", {}),
    "behind Relu": (f"r = Relu(c) y = {BN}(r, g, h, m, v)", {Diagnosis.BEHIND_ACTIVATION: "Relu r"}),
    "behind SiLU": (
        f"s = Sigmoid(c) r = Mul(c, s) i = Identity(r) y = {BN}(i, g, h, m, v)",
        {Diagnosis.BEHIND_ACTIVATION: "Mul r"},
    ),
    "behind Conv": (f"r = Conv(x, w, b) y = {BN}(r, g, h, m, v)", {}),
    "behind the Conv of a Sigmoid": (f"s = Sigmoid(x) r = Conv(s, w, b) y = {BN}(r, g, h, m, v)", {}),
    "behind a product": (f"s = Neg(c) r = Mul(c, s) y = {BN}(r, g, h, m, v)", {}),
    "another's": ("y = acme.BatchNormalization<training_mode=1>(c, g, h, m0, v1)", {}),
    "of a shape nobody knows": (
        f"r = acme.Thing(c) {T}(r, g, h, m, v)",
        {Diagnosis.EXPORTED_IN_TRAINING_MODE: ""},
    ),
    "of no dims": (f"{T}(scalar, g, h, m, v)", {Diagnosis.EXPORTED_IN_TRAINING_MODE: ""}),
    "of one dim": (
        f"{T}(line, lone, lone, lone, lone)",
        {Diagnosis.EXPORTED_IN_TRAINING_MODE: "", Diagnosis.ONE_VALUE_PER_CHANNEL: "at batch size 1"},
    ),
}


@pytest.mark.parametrize("name", DIAGNOSES)
def test_what_a_person_should_know(name: str) -> None:
    text, expected = DIAGNOSES[name]
    inputs = {
        **INPUTS,
        "x": "float[N,3,6,7]",
        "one1": "float[1,4,1,1]",
        "levels": "int8[N,4,5,6]",
        "vectors": "float[N,4]",
        "pair": "float[2,4]",
        "line": "float[N]",
        "scalar": "float[]",
    }
    tiny = {"tiny": np.array([1e-9, 1, 2, 1.1e-5], np.float32), "small": np.full(4, 0.01, np.float32)}
    lone = {"lone": np.array([0.5], np.float32)}
    quantized = {"bytes": np.array([1, 2, 3, 4], np.int8), "step": np.float32(0.5)}
    constants = {**INITIAL, **tiny, **lone, **quantized, "g": np.array([1.5, 1, 1, 1], np.float32)}
    model = Row(text, inputs=inputs, constants=constants, opset=17).model()
    assert diagnose(*find(model, BN)) == expected


def test_what_stands_behind_an_operator_that_lacks_operands() -> None:
    node, graph = find(row(f"i = Identity(c) y = {BN}(i, g, h, m, v)", 17), BN)
    del graph.nodes()[0].input[:]
    assert diagnose(node, graph) == {}


def test_dropout_in_training_mode_is_told() -> None:
    constants = {"ratio": np.float32(0.3), "yes": np.array(True)}
    model = Row("y = Dropout(c, ratio, yes)", inputs=INPUTS, constants=constants, opset=18).model()
    assert set(diagnose(*find(model, "Dropout"))) == {Diagnosis.EXPORTED_IN_TRAINING_MODE}
