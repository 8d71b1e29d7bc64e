"""Whether the fold kept all its promises on one model. Every check raises AssertionError and says what it saw.

A wrong fold is told from rounding by measuring what rounding does: the float64 oracle evaluates the model again with
every constant moved by one unit in its last place, and the optimized model may differ by a multiple of that.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bnfold.decisions import Action, Decision
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import PassOptions, default_passes
from bnfold.pipeline import run_passes
from tests.oracle import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bnfold.testing.random_scope import Array, Shape

SLACK = {TensorProto.DOUBLE: 128.0, TensorProto.FLOAT: 128.0, TensorProto.FLOAT16: 48.0}
UNPERTURBED = ("f", "b", "i")  # scales of Resize and ratios of Dropout


@dataclass
class Judged:
    """What was seen, for statistics."""

    actions: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    ran: bool = False
    full_check: bool = False


def judge(model: ModelProto, feeds: list[dict[str, Array]], shapes: Mapping[str, Shape] | None = None) -> Judged:
    judged = Judged()
    judged.full_check = _checks(model)
    given = model.SerializeToString(deterministic=True)
    optimized, decisions = _optimized(model)
    assert model.SerializeToString(deterministic=True) == given, "the caller's model was changed"
    _same_interface(model, optimized)
    _accounted(model, optimized, decisions)
    assert _checks(optimized) >= judged.full_check, "full_check no longer passes"
    assert _weight(optimized) <= _weight(model), f"{_weight(optimized)} nodes after {_weight(model)}"
    _stable(model, optimized)
    lowered = _optimized(model, lower=True)[0]
    _same_interface(model, lowered)
    assert _checks(lowered) >= judged.full_check, "lowered: full_check no longer passes"
    _equivalent(model, lowered, feeds[0], None)
    for number, feed in enumerate(feeds):
        _equivalent(model, optimized, feed, shapes if number == 0 else None)
        judged.ran |= _equivalent_at_run_time(model, optimized, feed)
    for decision in decisions:
        judged.actions[f"{decision.action.value} {decision.reason.code if decision.reason else ''}"] += 1
    return judged


# --- structure --------------------------------------------------------------------------------------------------------


def _optimized(model: ModelProto, *, lower: bool = False) -> tuple[ModelProto, tuple[Decision, ...]]:
    file = read(model)
    edited = Model(file)
    decisions = run_passes(edited, default_passes(PassOptions(lower=lower)))
    return to_proto(file), decisions


def _checks(model: ModelProto) -> bool:
    """Raises where the checker rejects the model; returns whether shape inference agrees with what it says."""
    onnx.checker.check_model(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def _same_interface(model: ModelProto, optimized: ModelProto) -> None:
    assert model.ir_version == optimized.ir_version
    assert list(model.opset_import) == list(optimized.opset_import)
    assert list(model.graph.output) == list(optimized.graph.output)
    kept = {tensor.name for tensor in model.graph.initializer} if model.ir_version < 4 else set()
    now = {tensor.name for tensor in optimized.graph.initializer} if model.ir_version < 4 else set()
    before = [entry for entry in model.graph.input if entry.name not in kept]
    assert before == [entry for entry in optimized.graph.input if entry.name not in now]
    old, new = ([(f.domain, f.name, list(f.input), list(f.output)) for f in m.functions] for m in (model, optimized))
    assert old == new


def _nodes(body: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for node in body.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _weight(model: ModelProto) -> int:
    return sum(1 for body in (model.graph, *model.functions) for _ in _nodes(body))


def _normalizations(model: ModelProto) -> list[tuple[str, str]]:
    found = []
    for graph in Model(read(model)).graphs:
        found += [(graph.scope, graph.label(n)) for n in graph.nodes() if n.op_type == "BatchNormalization"]
    return found


def _accounted(model: ModelProto, optimized: ModelProto, decisions: tuple[Decision, ...]) -> None:
    """One decision for every BatchNormalization, and it says what became of it."""
    before = _normalizations(model)
    said = [(d.scope, d.node) for d in decisions if d.op_type == "BatchNormalization"]
    assert sorted(said) == sorted(before), f"decisions for {sorted(said)}, normalizations {sorted(before)}"
    assert all(d.reason is not None for d in decisions if d.action is Action.KEPT)
    if any(node.name for node in model.graph.node):  # otherwise a label is the name of a value, which may change
        left = set(_normalizations(optimized))
        actions = {(d.scope, d.node): d.action for d in decisions if d.op_type == "BatchNormalization"}
        kept = {key for key, action in actions.items() if action is Action.KEPT}
        assert kept <= left, f"said to be kept, but gone: {kept - left}"
        wrong = {key for key in left if actions[key] not in (Action.KEPT, Action.MERGED)}
        assert not wrong, f"said to be folded, but still there: {wrong}"


def _stable(model: ModelProto, optimized: ModelProto) -> None:
    again = _optimized(model)[0]
    assert again.SerializeToString(deterministic=True) == optimized.SerializeToString(deterministic=True), "other bytes"
    file = read(optimized)
    edited = Model(file)
    run_passes(edited, default_passes(PassOptions()))
    assert not edited.modified, f"a second run edits: {edited.edits[:4]}"
    second = to_proto(file).SerializeToString(deterministic=True)
    assert second == optimized.SerializeToString(deterministic=True), "a second run gives other bytes"


# --- numbers ----------------------------------------------------------------------------------------------------------


def _equivalent(
    model: ModelProto,
    optimized: ModelProto,
    feed: dict[str, Array],
    shapes: Mapping[str, Shape] | None,
    slack: Mapping[int, float] = SLACK,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth, found = evaluate(model, feed), evaluate(optimized, feed)
        bound = _bounds(model, feed, truth, slack)
    for name, expected in truth.items():
        if shapes is not None and name in shapes:
            assert expected.shape == shapes[name], f"the generator is wrong about {name}: {expected.shape}"
        _close(name, expected, found[name], bound[name], "by the oracle")


def _close(name: str, expected: Array, found: Array, bound: float, where: str) -> None:
    assert expected.shape == found.shape, f"{name} has shape {found.shape} instead of {expected.shape}"
    if expected.dtype.kind != "f":
        assert (expected == found).all(), f"{name} differs"
        return
    finite = np.isfinite(expected)
    assert (np.isfinite(found) == finite).all(), f"{name} is finite elsewhere, {where}"
    error = np.abs(np.where(finite, expected, 0.0) - np.where(finite, found, 0.0)).max(initial=0.0)
    assert error <= bound, f"{name} is off by {error:.3g}, where rounding explains {bound:.3g}, {where}"


def _bounds(
    model: ModelProto, feed: dict[str, Array], truth: Mapping[str, Array], slack: Mapping[int, float] = SLACK
) -> dict[str, float]:
    """How far rounding may move each output: to the coarsest type that anything is stored in."""
    stored = (tensor.data_type for tensor in _float_constants(model))
    dtype = max((_float_type(model), *stored), key=lambda kind: np.finfo(helper.tensor_dtype_to_np_dtype(kind)).eps)
    unit = float(np.finfo(helper.tensor_dtype_to_np_dtype(dtype)).eps)
    moved = dict.fromkeys(truth, 0.0)
    for seed in range(3):
        numbers = np.random.default_rng(seed)
        other = ModelProto()
        other.CopyFrom(model)
        for tensor in _float_constants(other):
            values = numpy_helper.to_array(tensor).astype(np.float64)
            values = values * (1 + unit * numbers.choice([-1.0, 1.0], values.shape))
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), tensor.name))
        nudged = {n: _nudged(values, unit, numbers) for n, values in feed.items()}
        for name, values in evaluate(other, nudged).items():
            if values.dtype.kind == "f":
                with np.errstate(all="ignore"):
                    moves = np.abs(values - truth[name])
                moved[name] = max(moved[name], moves[np.isfinite(moves)].max(initial=0.0))
    largest = {n: np.abs(v[np.isfinite(v)]).max(initial=0.0) if v.dtype.kind == "f" else 0.0 for n, v in truth.items()}
    return {name: slack[dtype] * moved[name] + 8 * unit * largest[name] + 1e-30 for name in truth}


def _nudged(values: Array, unit: float, numbers: np.random.Generator) -> Array:
    if values.dtype.kind != "f":
        return values
    return values.astype(np.float64) * (1 + unit * numbers.choice([-1.0, 1.0], values.shape))


def _float_type(model: ModelProto) -> int:
    types = [entry.type.tensor_type.elem_type for entry in model.graph.input]
    return next(entry for entry in types if entry in SLACK)


def _float_constants(model: ModelProto) -> Iterator[TensorProto]:
    yield from _own_constants(model.graph)
    for body in (model.graph, *model.functions):
        for node in _nodes(body):
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from _own_constants(attribute.g)
                stored = attribute.name == "value" and attribute.t.data_type in SLACK
                if stored and not node.output[0].startswith(UNPERTURBED):
                    yield attribute.t


def _own_constants(graph: GraphProto) -> Iterator[TensorProto]:
    for tensor in graph.initializer:
        if tensor.data_type in SLACK and not tensor.name.startswith(UNPERTURBED):
            yield tensor


# --- onnxruntime ------------------------------------------------------------------------------------------------------


def _equivalent_at_run_time(
    model: ModelProto, optimized: ModelProto, feed: dict[str, Array], slack: Mapping[int, float] = SLACK
) -> bool:
    """Both models as onnxruntime runs them, unoptimized, against the oracle. False where it cannot run the original."""
    if _float_type(model) == TensorProto.DOUBLE:
        return False  # no kernels
    original = _run(model, feed)
    if isinstance(original, str):
        return False
    result = _run(optimized, feed)
    assert not isinstance(result, str), f"onnxruntime cannot run the result: {result}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = evaluate(model, feed)
        bound = _bounds(model, feed, truth, slack)
    for name, expected in truth.items():
        if expected.dtype.kind != "f":
            assert (result[name] == expected).all(), f"{name} differs in onnxruntime"
            continue
        before, after = (np.asarray(r[name], np.float64) for r in (original, result))
        usable = np.isfinite(expected) & np.isfinite(before)
        assert np.isfinite(after[usable]).all(), f"{name} is not finite in onnxruntime"
        own = np.abs(before[usable] - expected[usable]).max(initial=0.0)
        error = np.abs(after[usable] - expected[usable]).max(initial=0.0)
        assert error <= 16 * own + bound[name], f"{name} is off by {error:.3g} in onnxruntime, before {own:.3g}"
    return True


def _run(model: ModelProto, feed: dict[str, Array]) -> dict[str, Array] | str:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))
    except Exception as error:  # noqa: BLE001 - onnxruntime raises classes of its own, all of which mean the same here
        return str(error).splitlines()[0]
