"""Random graphs grow here: node by node, with bodies of If, Loop and Scan and with functions of the model."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, TensorProto, helper

from bnfold.testing import random_operators as operators
from bnfold.testing import random_passages as passages
from bnfold.testing.random_scope import Scope, Shape, Value

DEEPEST = 2
# The ranks an operator takes; the others take any.
RANKS: dict[operators.Operator, range] = {
    operators.batch_normalization: range(2, 6),
    operators.conv: range(3, 6),
    operators.conv_transpose: range(3, 6),
    operators.gemm: range(2, 3),
    operators.instance_normalization: range(3, 6),
    operators.depth_to_space: range(4, 5),
    operators.space_to_depth: range(4, 5),
    operators.resize: range(4, 5),
    operators.pool: range(3, 6),
    operators.global_pool: range(3, 6),
}


def grow(scope: Scope, steps: int, depth: int = 0) -> None:
    """Add `steps` times an operator or a whole passage, most of them to the value made last."""
    dice = scope.dice
    for _ in range(steps):
        values = scope.visible()
        x = values[-1]
        if dice.chance(20):
            x = dice.one_of(values[::-1])
        if scope.setting.passages and dice.chance(25):
            dice.one_of(passages.PASSAGES)(scope, x)
            continue
        kind = dice.number(0, 99)
        if kind >= 95 and depth < DEEPEST and not scope.is_function:
            dice.one_of([conditional, call, loop, scan])(scope, x, depth + 1)
        elif kind >= 75:
            _passage(scope, x)
        elif kind >= 62:
            dice.one_of(operators.PATTERNS)(scope, x)
        else:
            table = operators.BARRIERS if kind >= 58 else operators.CARRIERS
            table = operators.AFFINE if kind < 22 else operators.LINEAR if kind < 36 else table
            _one(scope, x, table)


def _one(scope: Scope, x: Value, table: list[operators.Operator]) -> Value:
    """One operator of `table` on `x`; the value it made, or `x` where it could not."""
    before = len(scope.values)
    scope.dice.one_of([entry for entry in table if x.rank in RANKS.get(entry, range(6))])(scope, x)
    return scope.values[-1] if len(scope.values) > before else x


def _passage(scope: Scope, x: Value) -> None:
    """A linear operator, a few that let a map pass, the map, a few more, and another linear operator."""
    dice = scope.dice
    tables = [operators.LINEAR] if dice.chance(75) else []
    tables += [operators.CARRIERS] * dice.number(0, 2)
    tables += [operators.AFFINE]
    tables += [operators.CARRIERS] * dice.number(0, 2)
    tables += [operators.LINEAR] if dice.chance(75) else []
    for table in tables:
        x = _one(scope, x, table)


def _finished(scope: Scope, name: str, inputs: list[tuple[str, int, Shape]], outputs: list[Value | str]) -> GraphProto:
    """The body as a graph; an output that is a name is a boolean."""
    dtype = scope.setting.dtype
    infos = []
    for output in outputs:
        if isinstance(output, str):
            infos.append(helper.make_tensor_value_info(output, TensorProto.BOOL, []))
        else:
            shape = output.shape if scope.dice.chance(60) else [None] * output.rank
            infos.append(helper.make_tensor_value_info(output.name, dtype, shape))
    given = [helper.make_tensor_value_info(*entry) for entry in inputs]
    return helper.make_graph(scope.nodes, name, given, infos, scope.initializers)


def _last(scope: Scope, x: Value) -> Value:
    """The value made last; a body has to make what it gives."""
    return scope.values[-1] if scope.values else scope.add("Identity", [x], x.shape)


def conditional(scope: Scope, x: Value, depth: int) -> None:
    setting = scope.setting
    condition = "condition"
    if all(value.name != condition for value in setting.inputs):
        setting.inputs.append(helper.make_tensor_value_info(condition, TensorProto.BOOL, []))
    branches, results = [], []
    reuse = setting.dice.chance(30)  # the names of one branch are free in the other
    start = highest = setting.count
    outside, setting.captures = setting.captures, setting.captures and not reuse
    for name in ("then", "else"):
        if reuse:
            setting.count = start
        body = Scope(setting, scope)
        if setting.dice.chance(70):
            body.values.append(body.add("Identity", [x], x.shape, keep=False))
        grow(body, setting.dice.number(0, 3), depth)
        result = _last(body, x)
        results.append(result)
        branches.append(_finished(body, name, [], [result]))
        highest = max(highest, setting.count)
    setting.count, setting.captures = highest, outside
    made = scope.add_many(
        "If", [condition], [results[0].shape], keep=False, then_branch=branches[0], else_branch=branches[1]
    )
    if results[0].shape == results[1].shape:
        scope.values += made
    elif scope.parent is None and results[0].rank == results[1].rank:
        scope.as_outputs.append((made[0].name, [None] * results[0].rank))


def loop(scope: Scope, x: Value, depth: int) -> None:
    """Twice: one value is carried, another one stacked."""
    setting = scope.setting
    step, going, carried = (setting.fresh(base) for base in ("step", "going", "v"))
    body = Scope(setting, scope)
    body.values.append(Value(carried, x.shape))
    grow(body, setting.dice.number(0, 4), depth)
    same = [value for value in body.values[1:] if value.shape == x.shape]
    after = same[-1] if same else body.add("Identity", [Value(carried, x.shape)], x.shape)
    stacked = body.values[-1]
    if stacked.name in (after.name, carried):
        stacked = body.add("Identity", [stacked], stacked.shape)
    again = setting.fresh("again")
    body.emit("Identity", [going], [again])
    inputs: list[tuple[str, int, Shape]] = [(step, TensorProto.INT64, ()), (going, TensorProto.BOOL, ())]
    inputs.append((carried, setting.dtype, x.shape))
    graph = _finished(body, "loop", inputs, [again, after, stacked])
    count = scope.plainly(np.asarray(2, np.int64), "i")
    truth = scope.plainly(np.asarray(True), "b")
    shapes = [x.shape, (2, *stacked.shape)]
    scope.add_many("Loop", [count, truth, x], shapes, body=graph)
    if len(shapes[1]) > 5:
        scope.values.pop()


def scan(scope: Scope, x: Value, depth: int) -> None:
    """Over the first axis."""
    setting = scope.setting
    if scope.opset < 9 or x.rank < 2:
        return
    row = Value(setting.fresh("v"), x.shape[1:])
    body = Scope(setting, scope)
    body.values.append(row)
    grow(body, setting.dice.number(0, 4), depth)
    result = body.values[-1]
    if result.name == row.name:
        result = body.add("Identity", [row], row.shape)
    graph = _finished(body, "scan", [(row.name, setting.dtype, row.shape)], [result])
    if result.rank < 5:
        scope.add("Scan", [x], (x.shape[0], *result.shape), body=graph, num_scan_inputs=1)


def call(scope: Scope, x: Value, depth: int) -> None:
    """A new function of the model, called once or twice; constants may be its arguments, epsilon its attribute."""
    setting, dice = scope.setting, scope.dice
    if setting.ir_version < 8 or depth > 1:
        return
    body = Scope(setting, None, function=True)
    body.values.append(Value(setting.fresh("v"), x.shape))
    data = body.values[0].name
    grow(body, dice.number(1, 5), depth)
    result = body.values[-1]
    if result.name == data:
        return
    attributes: dict[str, Any] = {}
    for node in body.nodes:
        if node.op_type == "BatchNormalization" and dice.chance(25):
            kept = [entry for entry in node.attribute if entry.name != "epsilon"]
            del node.attribute[:]
            node.attribute.extend(kept)
            body.reference(node, "epsilon", AttributeProto.FLOAT, "epsilon")
            attributes["epsilon"] = 0.01
    name = setting.fresh("Function")
    function = helper.make_function(
        "local",
        name,
        [data, *(argument for argument, _ in body.arguments)],
        [result.name],
        body.nodes,
        [helper.make_opsetid("", setting.opset)],
        list(attributes),
    )
    setting.functions.append(function)
    for _ in range(dice.number(1, 2)):
        given = [scope.constant(values, own=True) for _, values in body.arguments]
        scope.add_many(name, [x, *given], [result.shape], domain="local", **attributes)
