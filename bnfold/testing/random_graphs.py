"""Random models for the fold: every operator of its tables, in every opset, type and form that has a condition.

Channel counts, heights and widths differ, except where equal ones are the trap.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from bnfold.testing.random_bodies import grow
from bnfold.testing.random_scope import Array, Dice, Scope, Setting, Shape, Value

if TYPE_CHECKING:
    from collections.abc import Sequence

# The last one is the newest that onnxruntime 1.32 runs.
OPSETS = [13, 17, 11, 9, 7, 15, 18, 20, 22, 28]
IR_VERSIONS = [8, 3, 4, 7, 10]
DTYPES = [*[TensorProto.FLOAT] * 5, TensorProto.DOUBLE, TensorProto.DOUBLE, TensorProto.FLOAT16]


@dataclass(frozen=True)
class Case:
    """A model, and what to feed it: one or more sets of inputs, of the model's types."""

    model: ModelProto
    feeds: list[dict[str, Array]]
    shapes: dict[str, Shape]  # of the outputs, as the generator has computed them


# From these seeds on cases have the passages of `random_passages`, and a Neg in them: those before stay what they were.
FIRST_WITH_PASSAGES, FIRST_NEGATED = 100_000, 200_000


def drawn(dice: Dice, most_steps: int, *, passages: bool = True, negates: bool = True) -> Case:
    """The model that the choices of `dice` come to, with 1 to `most_steps` operators and those that belong to them."""
    setting = Setting(
        dice,
        opset=dice.one_of(OPSETS),
        ir_version=dice.one_of(IR_VERSIONS),
        dtype=dice.one_of(DTYPES),
        names=dice.one_of(["unique", "none"]),
        seed=dice.number(0, 1000),
        passages=passages,
        negates=negates,
    )
    main = Scope(setting)
    for _ in range(dice.number(1, 2)):
        _add_input(main)
    grow(main, dice.number(1, most_steps))
    return _finished(main)


def _add_input(main: Scope) -> None:
    dice, setting = main.dice, main.setting
    batch, channels = dice.one_of([1, 3, 2]), dice.one_of([4, 2, 3, 1, 6, 8])
    sizes = dice.one_of([(5, 7), (4, 6), (3, 4), (6, 5), (4, 4), (channels, 5), (1, 1)])
    rank = dice.one_of([4, 4, 4, 4, 3, 2, 5, 1])
    shape = (batch, channels, *sizes, 3)[:rank] if rank > 1 else (channels,)
    value = Value(setting.fresh("x"), shape)
    dims: list[int | str] = list(shape)
    if dice.chance(30):
        dynamic = [0, *(range(2, rank) if dice.chance(50) else [])]
        dims = [f"{value.name}_{axis}" if axis in dynamic else size for axis, size in enumerate(dims)]
    setting.inputs.append(helper.make_tensor_value_info(value.name, setting.dtype, dims))
    setting.feeds[value.name] = np.random.default_rng([setting.seed, setting.count]).normal(size=shape)
    main.values.append(value)


def _finished(main: Scope) -> Case:
    dice, setting = main.dice, main.setting
    made = [value for value in main.values if value.name not in {entry.name for entry in setting.inputs}]
    outputs = [value for value in made if value.name not in main.read]
    if len(outputs) > 1 and dice.chance(20):
        outputs.pop(0)  # nothing reads it
    outputs += [value for value in made if value not in outputs and dice.chance(3)]
    if not outputs:
        outputs = [main.add("Identity", [main.values[-1]], main.values[-1].shape)]
    infos: dict[str, ValueInfoProto] = {}
    for value in outputs:
        shape: Sequence[int | None] = value.shape if dice.chance(60) else [None] * value.rank
        infos[value.name] = helper.make_tensor_value_info(value.name, setting.dtype, shape)
    for name, shape in main.as_outputs:
        infos[name] = helper.make_tensor_value_info(name, setting.dtype, shape)
    for name, shape in main.integer_outputs:
        infos[name] = helper.make_tensor_value_info(name, TensorProto.INT64, shape)
    listed = setting.overridable if setting.ir_version >= 4 else {t.name: tuple(t.dims) for t in main.initializers}
    types = {tensor.name: tensor.data_type for tensor in main.initializers}
    inputs = [*setting.inputs, *(helper.make_tensor_value_info(n, types[n], s) for n, s in listed.items())]
    static = all(dim.HasField("dim_value") for entry in setting.inputs for dim in entry.type.tensor_type.shape.dim)
    known = []
    if static and dice.chance(40):
        known = [helper.make_tensor_value_info(v.name, setting.dtype, v.shape) for v in made if v.name not in infos]
    graph = helper.make_graph(main.nodes, "random", inputs, list(infos.values()), main.initializers, value_info=known)
    opsets = [helper.make_opsetid("", setting.opset)]
    if setting.functions:
        opsets.append(helper.make_opsetid("local", 1))
    model = helper.make_model(graph, opset_imports=opsets, functions=setting.functions, ir_version=setting.ir_version)
    model.producer_name = "random"
    shapes = {value.name: value.shape for value in outputs}
    return Case(model, _feeds(setting), shapes)


def _feeds(setting: Setting) -> list[dict[str, Array]]:
    """One set of inputs; another one for the other branch of an If and for what a caller may replace."""
    typed = {name: values.astype(setting.numpy_type) for name, values in setting.feeds.items()}
    choices = any(entry.name == "condition" for entry in setting.inputs)
    feeds = [{**typed, "condition": np.asarray(True)} if choices else typed]
    if choices or setting.overridable:
        numbers = np.random.default_rng(setting.seed)
        other = {n: numbers.uniform(0.5, 2, s).astype(setting.numpy_type) for n, s in setting.overridable.items()}
        feeds.append({**typed, **other, **({"condition": np.asarray(False)} if choices else {})})
    return feeds


class _SeededDice(Dice):
    """Choices from a seed."""

    def __init__(self, seed: int) -> None:
        self._numbers = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""
        return self._numbers.randint(low, high)


def seeded_case(seed: int, most_steps: int = 8) -> Case:
    """Case number `seed` of an endless row."""
    dice = _SeededDice(seed)
    return drawn(dice, most_steps, passages=seed >= FIRST_WITH_PASSAGES, negates=seed >= FIRST_NEGATED)


def text_of(case: Case) -> str:
    """The model for a person."""
    return onnx.printer.to_text(case.model)
