"""Sizes of dynamic dimensions that every node of a model accepts, found by trial with shape inference.

Nothing is run. The dimensions that nobody gave are unknowns; sizes are inferred for a first guess, and where a node
does not take them, the unknown that its input depends on is changed until it does. How many inferences that may take
is counted, never timed.
"""

import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, inliner, numpy_helper

from bnfold.equivalence.feeds.size_constraints import Known, Misfit, Relation, Shape, Way, misfits, shrinks
from bnfold.equivalence.structure.signature import Port, bodies, every_graph
from bnfold.graph import infer_shapes, sort_by_dataflow
from bnfold.lifetime import emptied_at_the_end
from bnfold.onnxfile import payload_index
from bnfold.records import Record

Shapes = dict[str, tuple[int, ...]]
"""A concrete shape for every input."""
Unknown = str | tuple[str, int]
"""A dynamic dimension: its symbol, or where it stands if it has none."""

LARGEST_INPUT = 8 << 20
"""Values in one input up to which sizes are grown: a picture of 1024 by 1024 with eight channels."""
_INFERRED_NODES, _FEWEST, _MOST = 300_000, 12, 300
"""Nodes through which sizes are inferred for one first guess, and how many inferences that is."""
_SECANTS, _AROUND, _MULTIPLES, _DOUBLINGS, _STEEP = 8, 3, 64, 10, 16.0


class Unknowns:
    """The dimensions of `ports` that neither the model nor the caller gives."""

    def __init__(self, ports: Sequence[Port], fixed: Mapping[str, Sequence[int]]) -> None:
        given = {
            dim: size
            for port in ports
            for dim, size in zip(port.dims or (), fixed.get(port.name, ()), strict=False)
            if isinstance(dim, str)
        }
        self._at: dict[tuple[str, int], Unknown] = {}
        for port in ports:
            for axis, dim in enumerate(port.dims if port.dims is not None else (None,)):
                if not isinstance(dim, int) and port.name not in fixed and dim not in given:
                    self._at[port.name, axis] = dim or (port.name, axis)

    def __iter__(self) -> Iterator[Unknown]:
        return iter(dict.fromkeys(self._at.values()))

    def __bool__(self) -> bool:
        return bool(self._at)

    def values(self, shapes: Shapes) -> dict[Unknown, int]:
        """The size that each has in `shapes`."""
        return {unknown: shapes[name][axis] for (name, axis), unknown in self._at.items()}

    def shapes(self, like: Shapes, values: Mapping[Unknown, int]) -> Shapes:
        """`like` with other sizes where they are unknown."""
        return {
            name: tuple(values[self._at[name, a]] if (name, a) in self._at else size for a, size in enumerate(shape))
            for name, shape in like.items()
        }

    def together(self) -> list[tuple[Unknown, ...]]:
        """The unknowns of one input behind its first two axes, which are often meant to be alike: height and width."""
        groups: dict[str, list[Unknown]] = {}
        for (name, axis), unknown in self._at.items():
            if axis >= 2:
                groups.setdefault(name, []).append(unknown)
        return [tuple(dict.fromkeys(group)) for group in groups.values() if len(set(group)) > 1]

    def leading(self) -> list[Unknown]:
        """The unknowns that stand first somewhere, as a batch does."""
        return list(dict.fromkeys(unknown for (_, axis), unknown in self._at.items() if axis == 0))

    def label(self, unknown: Unknown) -> str:
        """For people: every place where it stands."""
        places = [f"axis {axis} of {name!r}" for (name, axis), each in self._at.items() if each == unknown]
        where = f"{places[0]} and {len(places) - 1} more" if len(places) > 1 else places[0]
        return f"{unknown} ({where})" if isinstance(unknown, str) else where


class Solution(Record):
    """`shapes` that fit as far as can be inferred; `reasons`: in words, for each unknown that a node decided."""

    shapes: Shapes
    reasons: Mapping[Unknown, str] = field(default_factory=dict)


class SizeSolver:
    """Knows one model; see `solve`."""

    def __init__(self, model: ModelProto, unknowns: Unknowns) -> None:
        self.unknowns = unknowns
        self._model = model
        self._prepared: _Trial | None = None
        self._values: dict[Unknown, int] = {}
        self._like: Shapes = {}
        self._given_up: set[tuple[int, str]] = set()
        self._left = 0

    def solve(self, first: Shapes, kept: Mapping[Unknown, int] | None = None) -> Solution:
        """The sizes nearest to the first guess that the nodes accept; those in `kept` are not changed."""
        if not self.unknowns or not self._trial.works:
            return Solution(first)
        self._like, self._values = first, self.unknowns.values(first) | dict(kept or {})
        self._given_up = set()
        self._left = min(max(_INFERRED_NODES // max(self._trial.size, 1), _FEWEST), _MOST)
        settled = set(kept or {})
        reasons: dict[Unknown, str] = {}
        while self._left > 0:
            found = self._first_misfit(self._values)
            if found is None:
                break
            position, misfit = found
            for way in misfit.ways:
                moved = self._follow(way, position, settled)
                if moved is not None:
                    values, keys = moved
                    self._values = values
                    reasons.update((key, misfit.words) for key in keys)
                    if way.relation is Relation.EQUAL:
                        settled.update(keys)
                    break
            else:
                self._given_up.add((position, misfit.words))
        return Solution(self.unknowns.shapes(first, self._values), reasons)

    @property
    def _trial(self) -> "_Trial":
        """Made when the first sizes are solved, since a large model may be run on guesses alone."""
        if self._prepared is None:
            self._prepared = _Trial(self._model)
        return self._prepared

    def _infer(self, values: Mapping[Unknown, int]) -> "_Inferred":
        shapes = self.unknowns.shapes(self._like, values)
        if not self._trial.has(shapes):
            self._left -= 1
        return self._trial.infer(shapes)

    def _first_misfit(self, values: Mapping[Unknown, int]) -> tuple[int, Misfit] | None:
        for position, misfit in self._infer(values).misfits():
            if (position, misfit.words) not in self._given_up:
                return position, misfit
        return None

    def _follow(
        self, way: Way, position: int, settled: set[Unknown]
    ) -> tuple[dict[Unknown, int], tuple[Unknown, ...]] | None:
        """Sizes with which the way is gone and nothing before it does not fit, and what was changed for that."""
        before = self._size(way, position, self._values)
        free = [key for key in self.unknowns if key not in settled]
        free.sort(key=lambda key: self._values[key] != before)
        groups = [group for group in self.unknowns.together() if not settled.intersection(group)]
        singles = [(key,) for key in free]
        alike = tuple(key for key in free if self._values[key] == before)
        for keys in (*groups, *singles) if way.axis is None else (*singles, alike, *groups):
            if not keys:
                continue
            values = self._search(way, position, keys)
            if values is None:
                continue
            worse = self._first_misfit(values)
            if worse is None or worse[0] >= position:
                return values, keys
        return None

    def _search(self, way: Way, position: int, keys: tuple[Unknown, ...]) -> dict[Unknown, int] | None:
        """A size for `keys` with which `way` holds: the size of a value hardly ever shrinks when an input grows."""
        start = self._values[keys[0]]
        before = self._size(way, position, self._values)

        def tried(number: int) -> int | None:
            if number < 1 or self._left <= 0:
                return None
            values = self._values | dict.fromkeys(keys, number)
            shapes = self.unknowns.shapes(self._like, values)
            if max(map(math.prod, shapes.values())) > LARGEST_INPUT:
                return None
            return self._size(way, position, values)

        def holds(number: int) -> bool:
            size = tried(number)
            return size is not None and way.relation.holds(size, way.wanted)

        if before is None:
            return None
        if before == start and len(keys) == 1 and holds(way.wanted):
            return self._values | {keys[0]: way.wanted}
        if way.relation is Relation.MULTIPLE:
            several: Iterator[int] = iter(range(start + 1, start + 1 + min(way.wanted, _MULTIPLES)))
        else:
            several = _secants(start, before, way.wanted, tried, product=way.axis is None)
        found = next((number for number in several if holds(number)), None)
        if found is None and way.relation is Relation.LEAST:
            found = _least(start, holds)
        return None if found is None else self._values | dict.fromkeys(keys, found)

    def _size(self, way: Way, position: int, values: Mapping[Unknown, int]) -> int | None:
        shape = self._infer(values).shape(way.value, position)
        if shape is None or (way.axis is not None and way.axis >= len(shape)):
            return None
        return way.size(shape)


def _secants(
    start: int, before: int, wanted: int, tried: Callable[[int], int | None], *, product: bool
) -> Iterator[int]:
    """Numbers at which a function that grows with its argument may be `wanted`, each from the last two.

    `product`: a number of elements, which grows as a power of a size.
    """
    low, at_low = start, before
    high = 2 * start
    at_high = tried(high)
    if at_high is None:
        high = start + 1
        at_high = tried(high)
    guess = high
    for _ in range(_SECANTS):
        if at_high is None or at_high == at_low:
            return
        yield high
        if product and min(at_low, at_high) > 0 and wanted > 0:
            power = math.log(at_high / at_low) / math.log(high / low)
            guess = round(high * math.exp(max(min(math.log(wanted / at_high) / power, _STEEP), -_STEEP)))
        else:
            guess = high + math.ceil((wanted - at_high) * (high - low) / (at_high - at_low))
        guess = max(guess, 1)
        if guess in {low, high}:
            break
        low, at_low, high = high, at_high, guess
        at_high = tried(high)
    for step in range(1, _AROUND + 1):
        yield guess + step
        yield guess - step


def _least(start: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest number above `start` that holds, where all larger ones do and none may for long: a long slice."""
    high = next((start << power for power in range(1, _DOUBLINGS + 1) if holds(start << power)), None)
    if high is None:
        return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


class _Inferred:
    """The sizes of all values of a model for one set of inputs."""

    def __init__(self, trial: "_Trial", graphs: list[GraphProto] | None, shapes: Shapes) -> None:
        self._trial = trial
        self._scopes: list[ChainMap[str, Shape]] = []
        for number, parent in enumerate(trial.parents):
            own: dict[str, Shape] = dict(trial.stored[number])
            if graphs is not None:
                for value in (*graphs[number].input, *graphs[number].value_info, *graphs[number].output):
                    shape = _concrete(value.type)
                    if shape is not None:
                        own[value.name] = shape
            outer = () if parent is None else self._scopes[parent].maps
            self._scopes.append(ChainMap(own, *outer))
        self._scopes[0].update(shapes)

    def shape(self, value: str, position: int) -> Shape | None:
        """The shape that a node at `position` sees under the name `value`."""
        return self._scopes[self._trial.nodes[position][0]].get(value)

    def misfits(self) -> Iterator[tuple[int, Misfit]]:
        """In the order of the nodes, each with its position."""
        for position, (scope, node) in enumerate(self._trial.nodes):
            for misfit in misfits(Known(node, self._scopes[scope], self._trial.integers[scope])):
                yield position, misfit


class _Trial:
    """A copy of a model without declared sizes and functions, in which inputs get concrete ones."""

    def __init__(self, model: ModelProto) -> None:
        emptied_at_the_end(self)  # what it has inferred refers to it
        self._model = ModelProto()
        self._model.CopyFrom(model)
        self._model.opset_import.add(domain=_HIDDEN, version=1)
        if model.functions:
            self._model = inliner.inline_local_functions(self._model)
        sort_by_dataflow(self._model.graph)
        self.nodes: list[tuple[int, NodeProto]] = []
        self.parents: list[int | None] = []
        self.stored: list[dict[str, Shape]] = []
        self.integers: list[ChainMap[str, tuple[int, ...]]] = []
        self._walk(self._model.graph, None)
        self.size = len(self.nodes)
        self.works = bool(self.nodes)
        self._seen: dict[tuple[tuple[str, Shape], ...], _Inferred] = {}
        self._slices = list(self._behind_windows())
        self._safe: list[Shapes] = []

    def has(self, shapes: Shapes) -> bool:
        """Whether nothing new has to be inferred for these."""
        return tuple(shapes.items()) in self._seen

    def infer(self, shapes: Shapes) -> _Inferred:
        """Sizes of all values as far as shape inference tells them."""
        key = tuple(shapes.items())
        if key not in self._seen:
            if len(self._seen) > _REMEMBERED:
                self._seen.clear()
            self._seen[key] = _Inferred(self, self._inferred(shapes), shapes)
        return self._seen[key]

    def _inferred(self, shapes: Shapes) -> list[GraphProto] | None:
        """The graphs with inferred sizes.

        A window larger than what it slides over makes a negative size, and on that shape inference of Slice ends the
        process. So a Slice behind a window is hidden until what it reads is known to be no such size.
        """
        for value in self._model.graph.input:
            if value.name in shapes:
                _set_shape(value.type, shapes[value.name])
        if any(_covers(shapes, safe) for safe in self._safe):
            return self._run_inference()
        hidden = list(self._slices)
        _hide(hidden)
        try:
            while hidden:
                graphs = self._run_inference()
                if graphs is None:
                    return None
                known = _Inferred(self, graphs, shapes)
                ready = [each for each in hidden if min(known.shape(each[1].input[0], each[0]) or (), default=-1) >= 0]
                if not ready:
                    return graphs
                _show(ready)
                hidden = [each for each in hidden if each not in ready]
        finally:
            _show(hidden)
        self._safe.append(shapes)
        return self._run_inference()

    def _run_inference(self) -> list[GraphProto] | None:
        try:
            found = infer_shapes(self._model)
        except Exception:  # noqa: BLE001 - inference raises what it likes for what it does not know
            return None
        return list(every_graph(found.graph))

    def _behind_windows(self) -> Iterator[tuple[int, NodeProto]]:
        """Each Slice that may read what a window was too large for."""
        behind: set[str] = set()
        for position, (scope, node) in enumerate(self.nodes):
            weight = self.stored[scope].get(node.input[1]) if len(node.input) > 1 else None
            inside = behind.intersection(node.input)
            if node.op_type == "Slice" and node.input and (inside or self.parents[scope] is not None):
                yield position, node
            if inside or shrinks(node, weight) or any(True for _ in bodies(node)):
                behind.update(node.output)

    def _walk(self, graph: GraphProto, parent: int | None) -> None:
        number = len(self.parents)
        self.parents.append(parent)
        self.stored.append({})
        self.integers.append(ChainMap({}, *(() if parent is None else self.integers[parent].maps)))
        del graph.value_info[:]
        for value in graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        for tensor in graph.initializer:
            self._note(number, tensor.name, tensor)
        for node in graph.node:
            self._note_constant(number, node)
            self.nodes.append((number, node))
            for body in bodies(node):
                self._walk(body, number)

    def _note_constant(self, scope: int, node: NodeProto) -> None:
        integers = self.integers[scope]
        if node.op_type == "Identity" and node.input[0] in integers:
            integers[node.output[0]] = integers[node.input[0]]
        elif node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    self._note(scope, node.output[0], attribute.t)
                elif attribute.name in {"value_int", "value_ints"}:
                    integers[node.output[0]] = tuple(attribute.ints) or (attribute.i,)

    def _note(self, scope: int, name: str, tensor: TensorProto) -> None:
        self.stored[scope][name] = tuple(tensor.dims)
        if tensor.data_type in {TensorProto.INT64, TensorProto.INT32} and payload_index(tensor) is None:
            self.integers[scope][name] = tuple(numpy_helper.to_array(tensor).reshape(-1).tolist())


_REMEMBERED = 32


def _covers(shapes: Shapes, safe: Shapes) -> bool:
    """Whether no size is smaller: then no window is too large here that was not there."""
    return all(size >= least for name in safe for size, least in zip(shapes[name], safe[name], strict=True))


_HIDDEN = "bnfold.hidden"
"""A domain that shape inference does not know."""


def _hide(slices: Sequence[tuple[int, NodeProto]]) -> None:
    for _, node in slices:
        node.domain = _HIDDEN


def _show(slices: Sequence[tuple[int, NodeProto]]) -> None:
    for _, node in slices:
        node.domain = ""


def _concrete(kind: TypeProto) -> Shape | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _set_shape(kind: TypeProto, shape: Shape) -> None:
    kind.tensor_type.ClearField("shape")
    kind.tensor_type.shape.SetInParent()
    for size in shape:
        kind.tensor_type.shape.dim.add(dim_value=size)
