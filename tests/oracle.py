"""An independent float64 interpreter for ONNX graphs: what a model means, to about fifteen digits.

It shares no code with bnfold. Operators come from `oracle_operators`, else from onnx.reference, one node at a time. All
floating point is float64: stored weights keep their values, and casts between floating point types do not round, so the
result is that of real arithmetic on the numbers in the file. Models are trusted: a Loop runs as often as it says.
"""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.oracle_operators import OPERATORS, Array, Call, NotHere, promote

with contextlib.suppress(ModuleNotFoundError):  # without PyTorch, onnx.reference computes what is missing
    import tests.oracle_torch  # noqa: F401 - it enters its operators into the table

Scope = MutableMapping[str, Any]
_DEFAULT_DOMAINS = {"", "ai.onnx"}


def evaluate(
    model: ModelProto,
    feeds: Mapping[str, Array],
    *,
    inference: bool = False,
    fetch: Sequence[str] = (),
) -> dict[str, Array]:
    """Run the main graph; returns its outputs by name, floating point ones as float64.

    `inference=True` gives evaluation semantics whatever the file says: every BatchNormalization uses its stored
    statistics (its further outputs are those) and every Dropout is the identity. `fetch` names further values of the
    main graph to return. An initializer that is also an input may be fed. Raises KeyError for a missing feed and
    ValueError for what has no deterministic meaning.
    """
    graph = model.graph
    unknown = set(feeds) - {value.name for value in graph.input}
    if unknown:
        raise KeyError(f"the model has no input called {sorted(unknown)}")
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    functions = {(entry.domain, entry.name, entry.overload): entry for entry in model.functions}
    scope: Scope = ChainMap({})
    frame = _Frame(opsets, functions, inference)
    _load_initializers(graph, scope)
    scope.update({name: _settled(value) for name, value in feeds.items()})
    with np.errstate(all="ignore"):
        frame.run(graph.node, scope)
    return {name: scope[name] for name in (*(value.name for value in graph.output), *fetch)}


@dataclass(frozen=True)
class _Frame:
    """What nodes see beside the values: the main graph's, or that of one function call."""

    opsets: Mapping[str, int]
    functions: Mapping[tuple[str, str, str], FunctionProto]
    inference: bool
    bound: Mapping[str, AttributeProto] = field(default_factory=dict)

    def run(self, nodes: Iterable[NodeProto], scope: Scope) -> None:
        for node in nodes:
            inputs = [scope[name] if name else None for name in node.input]
            results = self._results(node, inputs, scope)
            for name, value in zip(node.output, results, strict=False):
                if name:
                    scope[name] = _settled(value)

    def _results(self, node: NodeProto, inputs: list[Any], scope: Scope) -> Sequence[Any]:
        attributes = dict(self._attributes(node))
        function = self.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            return self._call(function, inputs, attributes)
        if node.domain in _DEFAULT_DOMAINS:
            if node.op_type in _CONTROL_FLOW:
                return _CONTROL_FLOW[node.op_type](self, attributes, inputs, scope)
            if node.op_type in OPERATORS:
                values = {name: onnx.helper.get_attribute_value(entry) for name, entry in attributes.items()}
                call = Call(node.op_type, self._opset(node), values, tuple(node.output), self.inference)
                try:
                    result = OPERATORS[node.op_type](call, *inputs)
                except NotHere:
                    return self._by_reference(node, attributes, inputs)
                return result if isinstance(result, tuple) else (result,)
        return self._by_reference(node, attributes, inputs)

    def _opset(self, node: NodeProto) -> int:
        names = _DEFAULT_DOMAINS if node.domain in _DEFAULT_DOMAINS else {node.domain}
        return next(version for domain, version in self.opsets.items() if domain in names)

    def _attributes(self, node: NodeProto) -> Iterator[tuple[str, AttributeProto]]:
        """A reference to an attribute of the function that was not given leaves the attribute out."""
        for attribute in node.attribute:
            if not attribute.ref_attr_name:
                yield attribute.name, attribute
            elif attribute.ref_attr_name in self.bound:
                yield attribute.name, self.bound[attribute.ref_attr_name]

    def _call(
        self, function: FunctionProto, inputs: list[Any], attributes: Mapping[str, AttributeProto]
    ) -> Sequence[Any]:
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        opsets = {entry.domain: entry.version for entry in function.opset_import}
        frame = _Frame(opsets, self.functions, self.inference, {**defaults, **attributes})
        scope: Scope = ChainMap(dict(zip(function.input, inputs, strict=False)))
        for name in function.input[len(inputs) :]:
            scope[name] = None
        frame.run(function.node, scope)
        return [scope[name] for name in function.output]

    def _by_reference(
        self, node: NodeProto, attributes: Mapping[str, AttributeProto], inputs: list[Any]
    ) -> Sequence[Any]:
        """One node through onnx.reference, whose numpy code computes in the type it is fed."""
        domain = "" if node.domain in _DEFAULT_DOMAINS else node.domain  # onnx.reference knows the short name alone
        alone = NodeProto(op_type=node.op_type, domain=domain, output=node.output)
        alone.input.extend("" if value is None else f"input_{at}" for at, value in enumerate(inputs))
        for name, attribute in attributes.items():
            alone.attribute.add().CopyFrom(attribute)
            alone.attribute[-1].name = name
        feeds = {f"input_{at}": value for at, value in enumerate(inputs) if value is not None}
        untyped = onnx.TypeProto()
        graph = onnx.helper.make_graph(
            [alone],
            "one_node",
            [onnx.helper.make_value_info(name, untyped) for name in feeds],
            [onnx.helper.make_value_info(name, untyped) for name in node.output if name],
        )
        versions = {"" if domain in _DEFAULT_DOMAINS else domain: version for domain, version in self.opsets.items()}
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        results = iter(ReferenceEvaluator(model).run(None, feeds))
        return [next(results) if name else None for name in node.output]

    def body(self, graph: GraphProto, inputs: Sequence[Any], outer: Scope) -> list[Any]:
        """Run a nested graph, which sees every value around it."""
        scope = ChainMap({}, *outer.maps) if isinstance(outer, ChainMap) else ChainMap({}, outer)
        _load_initializers(graph, scope)
        scope.update(zip((value.name for value in graph.input), inputs, strict=True))
        self.run(graph.node, scope)
        return [scope[value.name] for value in graph.output]


def _settled(value: Any) -> Any:
    """Results as arrays, floating point as float64; sequences stay lists."""
    if isinstance(value, list):
        return [_settled(entry) for entry in value]
    return None if value is None else promote(np.asarray(value))


def _load_initializers(graph: GraphProto, scope: Scope) -> None:
    for tensor in graph.initializer:
        scope[tensor.name] = promote(numpy_helper.to_array(tensor))
    for sparse in graph.sparse_initializer:
        scope[sparse.values.name] = promote(_dense(sparse.values, sparse.indices, tuple(sparse.dims)))


def _dense(values: TensorProto, indices: TensorProto, shape: tuple[int, ...]) -> Array:
    """Indices are [NNZ] into the flattened tensor, or [NNZ, rank]."""
    stored, at = numpy_helper.to_array(values), numpy_helper.to_array(indices)
    whole = np.zeros(shape, stored.dtype)
    whole[np.unravel_index(at, shape) if at.ndim == 1 else tuple(at.T)] = stored
    return whole


def _branch(frame: _Frame, attributes: Mapping[str, AttributeProto], inputs: list[Any], scope: Scope) -> list[Any]:
    return frame.body(attributes["then_branch" if inputs[0].item() else "else_branch"].g, [], scope)


def _loop(frame: _Frame, attributes: Mapping[str, AttributeProto], inputs: list[Any], scope: Scope) -> list[Any]:
    body = attributes["body"].g
    count, condition, *carried = inputs
    limit = None if count is None else int(count.item())
    going = condition is None or bool(condition.item())
    stacked: list[list[Array]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    turn = 0
    while going and (limit is None or turn < limit):
        again, *results = frame.body(body, [np.asarray(turn, np.int64), np.asarray(going), *carried], scope)
        going = bool(again.item())
        for rows, row in zip(stacked, results[len(carried) :], strict=True):
            rows.append(row)
        carried = results[: len(carried)]
        turn += 1
    return carried + [np.stack(rows) if rows else np.zeros(0) for rows in stacked]


def _scan(frame: _Frame, attributes: Mapping[str, AttributeProto], inputs: list[Any], scope: Scope) -> list[Any]:
    """The form of opset 9 and later, without a batch axis."""
    if len(inputs) and inputs[0] is None:
        raise ValueError("Scan of opset 8, with its sequence lengths, has no oracle")
    body = attributes["body"].g
    scanned = attributes["num_scan_inputs"].i
    state, rows = inputs[: len(inputs) - scanned], inputs[len(inputs) - scanned :]
    made = len(body.output) - len(state)

    def listed(name: str, count: int) -> Sequence[int]:
        return attributes[name].ints if name in attributes else [0] * count

    rows = [np.moveaxis(row, axis, 0) for row, axis in zip(rows, listed("scan_input_axes", scanned), strict=True)]
    rows = [
        row[::-1] if back else row for row, back in zip(rows, listed("scan_input_directions", scanned), strict=True)
    ]
    stacked: list[list[Array]] = [[] for _ in range(made)]
    for elements in zip(*rows, strict=True):
        results = frame.body(body, [*state, *elements], scope)
        state = results[: len(state)]
        for column, value in zip(stacked, results[len(state) :], strict=True):
            column.append(value)
    backward, axes = listed("scan_output_directions", made), listed("scan_output_axes", made)
    return state + [
        np.stack(column[::-1] if back else column, axis)
        for column, back, axis in zip(stacked, backward, axes, strict=True)
    ]


_CONTROL_FLOW = {"If": _branch, "Loop": _loop, "Scan": _scan}
