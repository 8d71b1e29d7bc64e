"""Building one random scope: values with known shapes, constants stored in every way exporters store them.

Structure is drawn by `Dice`; numbers come from numpy generators seeded by their position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
Array = NDArray[Any]
Shape = tuple[int, ...]


class Dice:
    """Choices: the first or the smallest is the simplest."""

    def number(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""
        raise NotImplementedError

    def one_of(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]

    def chance(self, percent: int) -> bool:
        return self.number(0, 99) >= 100 - percent


@dataclass(frozen=True)
class Value:
    """A floating point value that nodes may read; `positive` where it is bounded away from zero."""

    name: str
    shape: Shape
    positive: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Setting:
    """The facts that hold for the whole model."""

    dice: Dice
    opset: int
    ir_version: int
    dtype: int
    names: str  # how nodes are called: "unique" or "none"
    seed: int
    functions: list[FunctionProto] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)  # in float64; whoever runs the model casts them
    inputs: list[ValueInfoProto] = field(default_factory=list)
    overridable: dict[str, Shape] = field(default_factory=dict)
    count: int = 0
    captures: bool = True  # whether a body may add constants to the scope around it
    negates: bool = False  # whether a Neg is among what a difference is made of
    passages: bool = False  # whether whole passages of `random_passages` are among what it is made of

    def fresh(self, base: str) -> str:
        self.count += 1
        return f"{base}{self.count}"

    def numbers(self) -> np.random.Generator:
        """A generator of its own for each constant: what one holds does not depend on how others were drawn."""
        return np.random.default_rng([self.seed, self.count])

    @property
    def numpy_type(self) -> np.dtype[Any]:
        return helper.tensor_dtype_to_np_dtype(self.dtype)


class Scope:
    """The main graph, a nested body, or the body of a function while it is being built."""

    def __init__(self, setting: Setting, parent: Scope | None = None, *, function: bool = False) -> None:
        self.setting = setting
        self.dice = setting.dice
        self.parent = parent
        self.is_function = function
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.values: list[Value] = []
        self.read: set[str] = set()
        self.stored: list[tuple[str, Shape]] = []  # constants that may be shared
        self.arguments: list[tuple[str, Array]] = []  # of a function: constants that the caller gives
        self.as_outputs: list[tuple[str, Sequence[int | None]]] = []  # constants that are outputs as well
        self.integer_outputs: list[tuple[str, Shape]] = []

    # ------------------------------------------------------------------ values

    @property
    def opset(self) -> int:
        return self.setting.opset

    def visible(self) -> list[Value]:
        """Own values last, as those are read most."""
        outer = [] if self.parent is None or self.is_function else self.parent.visible()
        return [*outer, *self.values]

    def add(
        self, op_type: str, inputs: Sequence[Value | str], shape: Sequence[int], *, keep: bool = True, **attributes: Any
    ) -> Value:
        """A node with one output of `shape`, which others may read if it is to `keep`."""
        return self.add_many(op_type, inputs, [shape], keep=keep, **attributes)[0]

    def add_many(
        self,
        op_type: str,
        inputs: Sequence[Value | str],
        shapes: Sequence[Sequence[int]],
        *,
        keep: bool = True,
        domain: str = "",
        **attributes: Any,
    ) -> list[Value]:
        results = [Value(self.setting.fresh("v"), tuple(shape)) for shape in shapes]
        self.emit(op_type, inputs, [value.name for value in results], domain=domain, **attributes)
        if keep:
            self.values += results
        return results

    def emit(
        self, op_type: str, inputs: Sequence[Value | str], outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> NodeProto:
        names = [entry.name if isinstance(entry, Value) else entry for entry in inputs]
        title = f"{op_type}_{outputs[0]}" if self.setting.names == "unique" else ""
        given = {name: value for name, value in attributes.items() if value is not None}
        node = helper.make_node(op_type, names, list(outputs), name=title, domain=domain, **given)
        self.nodes.append(node)
        self.note_reads(names)
        return node

    def note_reads(self, names: Sequence[str]) -> None:
        scope: Scope | None = self
        while scope is not None:
            scope.read.update(names)
            scope = None if scope.is_function else scope.parent

    # ------------------------------------------------------------------ constants

    def integers(self, numbers: Sequence[int]) -> str:
        return self.plainly(np.asarray(numbers, np.int64), "i")

    def floats(self, numbers: Sequence[float] | float, dtype: int = TensorProto.FLOAT) -> str:
        return self.plainly(np.asarray(numbers, helper.tensor_dtype_to_np_dtype(dtype)), "f")

    def normal(self, shape: Sequence[int], spread: float = 1.0) -> Array:
        self.setting.count += 1
        return self.setting.numbers().normal(0, spread, tuple(shape))

    def factors(self, shape: Sequence[int], *, both_signs: bool = True, zero: bool = False) -> Array:
        """Numbers between a half and two, of either sign, the first one zero on request."""
        self.setting.count += 1
        numbers = self.setting.numbers()
        values = np.asarray(numbers.uniform(0.5, 2.0, tuple(shape)))
        if both_signs:
            values = values * numbers.choice([-1.0, 1.0], values.shape)
        if zero and values.size:
            values.reshape(-1)[0] = 0.0
        return values

    def constant(self, values: Array, *, own: bool = False) -> str:
        """The name of a constant of about these values (a shared one has others), stored in one of many ways.

        One that is its reader's `own` is not shared with an earlier one: a variance has to be positive.
        """
        dice = self.dice
        values = np.asarray(values, np.float64)
        if not dice.chance(30):
            return self.plainly(values.astype(self.setting.numpy_type), "c", share=True)
        ways = [self._constant_node, self._behind_identity, self._transposed, self._reshaped, self._cast]
        ways += [] if own else [self._shared, self._shared]
        ways += [self._sum, self._product, self._expanded, self._captured, self._argument, self._also_output]
        ways += [self._overridable]
        return dice.one_of(ways)(values)

    def plainly(self, values: Array, base: str, *, share: bool = False) -> str:
        if self.is_function or (self.parent is not None and self.setting.ir_version < 4):
            return self._node(values, base)  # up to IR version 3 an initializer is an input, which a body cannot add
        name = self.setting.fresh(base)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        if share:
            self.stored.append((name, values.shape))
        return name

    def _node(self, values: Array, base: str) -> str:
        name = self.setting.fresh(base)
        self.emit("Constant", [], [name], value=numpy_helper.from_array(values))
        if values.dtype == self.setting.numpy_type:
            self.stored.append((name, values.shape))
        return name

    def _typed(self, values: Array) -> Array:
        return np.asarray(values, self.setting.numpy_type)

    def again(self, values: Array) -> str:
        return self.plainly(self._typed(values), "c", share=True)

    def _result(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = self.setting.fresh("e")
        self.emit(op_type, inputs, [name], **attributes)
        return name

    def _shared(self, values: Array) -> str:
        scope, known = self, list(self.stored)
        while not scope.is_function and scope.parent is not None:
            scope = scope.parent
            known += scope.stored
        same = [name for name, shape in known if shape == values.shape]
        return self.dice.one_of(same) if same else self.again(values)

    def _constant_node(self, values: Array) -> str:
        return self._node(self._typed(values), "k")

    def _behind_identity(self, values: Array) -> str:
        name = self._result("Identity", [self.again(values)])
        self.stored.append((name, values.shape))
        return name

    def _transposed(self, values: Array) -> str:
        if values.ndim < 2:
            return self._behind_identity(values)
        order = [*list(range(values.ndim))[1:], 0]
        back = [order.index(axis) for axis in range(values.ndim)]
        return self._result("Transpose", [self.again(values.transpose(order))], perm=back)

    def _reshaped(self, values: Array) -> str:
        return self._result("Reshape", [self.again(values.reshape(-1)), self.integers(values.shape)])

    def _cast(self, values: Array) -> str:
        other = TensorProto.FLOAT if self.setting.dtype == TensorProto.DOUBLE else TensorProto.DOUBLE
        stored = self.plainly(values.astype(helper.tensor_dtype_to_np_dtype(other)), "c")
        return self._result("Cast", [stored], to=self.setting.dtype)

    def _sum(self, values: Array) -> str:
        half = values / 2
        return self._result("Add", [self.again(values - half), self.again(half)])

    def _product(self, values: Array) -> str:
        return self._result("Mul", [self.again(values * 2), self.again(np.asarray(0.5))])

    def _expanded(self, values: Array) -> str:
        """One number for all, as exporters write a bias that is not there."""
        if self.opset < 9 or not values.size:
            return self.again(values)
        number = values.reshape(-1)[0]
        if self.dice.chance(50):
            return self._result("Expand", [self.again(number), self.integers(values.shape)])
        fill = numpy_helper.from_array(self._typed(number).reshape(1))
        return self._result("ConstantOfShape", [self.integers(values.shape)], value=fill)

    def _captured(self, values: Array) -> str:
        """In a nested body: a constant of the scope around it."""
        nested = self.parent is not None and not self.is_function and self.setting.captures
        home = self.parent if nested and self.parent is not None else self
        name = home.again(values)
        if home is not self:
            home.note_reads([name])
        return name

    def _argument(self, values: Array) -> str:
        """In a function: a constant that the caller gives."""
        if not self.is_function:
            return self.again(values)
        name = self.setting.fresh("a")
        self.arguments.append((name, values))
        return name

    def _also_output(self, values: Array) -> str:
        name = self.again(values)
        if self.parent is None and not self.is_function:
            self.as_outputs.append((name, values.shape))
        return name

    def _overridable(self, values: Array) -> str:
        name = self.again(values)
        if self.parent is None and not self.is_function and self.setting.ir_version >= 4 and self.dice.chance(30):
            self.setting.overridable[name] = values.shape
        return name

    def reference(self, node: NodeProto, attribute: str, kind: Any, argument: str) -> None:
        """Let `attribute` of `node` take its value from `argument` of the function."""
        node.attribute.append(AttributeProto(name=attribute, ref_attr_name=argument, type=kind))
