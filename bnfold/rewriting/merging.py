"""The edits of a function on a model, and nothing else: three structures become one.

`before` is the model, `baseline` what the function was given, after the same way there and back with nothing done to
it, and `after` what it made. What is in `after` as in the baseline was not touched: it is taken from `before`, byte
for byte. What `before` has and the baseline lacks was lost on the way, not taken out: it is put back where what it
speaks of is still there. `forgetful` are tools that lose names, descriptions and notes on their own: there what they
left empty is put back as well.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from bnfold.equivalence.structure.signature import every_graph
from bnfold.graph.sameness import domain_of, same_function, same_node, same_sparse_tensor, same_tensor
from bnfold.rewriting.training_statistics import INITIALIZERS_ARE_NO_INPUTS, part_statistics

_M = TypeVar("_M", bound=Message)
_Key = Callable[[Any], Any]

_DESCRIPTIONS = ("doc_string", "metadata_props")
_OF_MODEL = ("producer_name", "producer_version", "domain", "model_version", "doc_string")


@dataclass(frozen=True)
class Merger:
    """Puts the three together. `forgetful`: what `after` has left empty was lost and not taken out."""

    forgetful: bool = False

    def models(self, before: ModelProto, baseline: ModelProto, after: ModelProto) -> ModelProto:
        """The model that the function meant."""
        made = ModelProto()
        made.CopyFrom(before)
        for field in _OF_MODEL:
            if not self.forgetful:
                self._scalar(made, baseline, after, field)
        opsets = self._list(before.opset_import, baseline.opset_import, after.opset_import, _domain)
        _set(made.opset_import, opsets)
        if not self.forgetful or list(made.opset_import) != list(before.opset_import):
            self._scalar(made, baseline, after, "ir_version")
        self._notes(made, before, baseline, after)
        functions = self._list(
            before.functions,
            baseline.functions,
            after.functions,
            lambda each: (each.domain, each.name, each.overload),
            self._functions,
        )
        made.graph.CopyFrom(self.graphs(before.graph, baseline.graph, after.graph))
        if self.forgetful:
            part_statistics(made, before)
        if self.forgetful and made.ir_version < INITIALIZERS_ARE_NO_INPUTS:
            _list_initializers(made.graph, before.graph)
        called = {(node.domain, node.op_type) for node in _every_node([made.graph, *functions])}
        lost = {(each.domain, each.name) for each in before.functions} - {
            (each.domain, each.name) for each in after.functions
        }
        _set(
            made.functions,
            [each for each in functions if (key := (each.domain, each.name)) not in lost or key in called],
        )
        return made

    def graphs(self, before: GraphProto, baseline: GraphProto, after: GraphProto) -> GraphProto:
        """Merge one graph."""
        made = GraphProto()
        made.CopyFrom(before)
        for field in ("name", "doc_string"):
            if not self.forgetful:
                self._scalar(made, baseline, after, field)
        self._notes(made, before, baseline, after)
        _set(made.node, self._nodes(before.node, baseline.node, after.node))
        stored = self._list(
            before.initializer,
            baseline.initializer,
            after.initializer,
            _name,
            self._tensors,
            alive={tensor.name for tensor in before.initializer},
            sorted_as_before=True,
        )
        _set(made.initializer, stored)
        sparse = self._list(
            before.sparse_initializer,
            baseline.sparse_initializer,
            after.sparse_initializer,
            lambda each: each.values.name,
            lambda old, base, new: old if base is not None and same_sparse_tensor(base, new) else new,
        )
        _set(made.sparse_initializer, sparse)
        defaults = {tensor.name for tensor in made.initializer} | {each.values.name for each in made.sparse_initializer}
        keep = _as_before if self.forgetful else None  # what callers see is not for another tool to change
        fed = {value.name for value in before.input if self.forgetful} - {tensor.name for tensor in before.initializer}
        inputs = self._list(
            before.input, baseline.input, after.input, _name, keep, alive=fed | defaults, forgetful=self.forgetful
        )
        _set(made.input, inputs)
        _set(made.output, self._list(before.output, baseline.output, after.output, _name, keep))
        makers = {output: node for node in made.node for output in node.output}
        formerly = {output: node for node in before.node for output in node.output}
        untouched = {name for name, node in makers.items() if name in formerly and same_node(node, formerly[name])}
        described = self._list(
            before.value_info,
            baseline.value_info,
            after.value_info,
            _name,
            alive=untouched | defaults,
            forgetful=self.forgetful,
            sorted_as_before=True,
        )
        if self.forgetful:  # what a tool has inferred is not for the file, and some infer wrongly
            said = {value.name: value for value in before.value_info}
            described = [
                said[value.name] if value.name in untouched else value for value in described if value.name in said
            ]
        there = makers.keys() | defaults
        _set(made.value_info, [value for value in described if value.name in there])
        notes = self._list(
            before.quantization_annotation,
            baseline.quantization_annotation,
            after.quantization_annotation,
            lambda each: each.tensor_name,
            alive=there | {value.name for value in made.input},
            forgetful=self.forgetful,
        )
        _set(made.quantization_annotation, notes)
        return made

    # ------------------------------------------------------------------ the parts

    def _functions(self, before: FunctionProto, baseline: FunctionProto | None, after: FunctionProto) -> FunctionProto:
        if baseline is None or same_function(baseline, after):
            return before
        made = FunctionProto()
        made.CopyFrom(after)
        self._notes(made, before, baseline, after)
        _set(made.node, self._nodes(before.node, baseline.node, after.node))
        return made

    def _nodes(
        self, before: Sequence[NodeProto], baseline: Sequence[NodeProto], after: Sequence[NodeProto]
    ) -> list[NodeProto]:
        """The nodes of `after`, in its order, those that were not touched as they were before."""
        original = list(before) if len(before) == len(baseline) else None
        by_value = {_made_value(node): node for node in before}
        base: dict[Any, tuple[NodeProto, NodeProto]] = {}
        for position, node in enumerate(baseline):
            old = original[position] if original is not None else by_value.get(_made_value(node))
            if old is not None:
                base[_made_value(node)] = (node, old)
        made = []
        for node in after:
            found = base.get(_made_value(node))
            made.append(node if found is None else self._node(found[1], found[0], node))
        return made

    def _node(self, before: NodeProto, baseline: NodeProto, after: NodeProto) -> NodeProto:
        if baseline == after:
            return before
        same = same_node(baseline, after)
        if not same and (domain_of(before), before.op_type) != (domain_of(after), after.op_type):
            return after
        made = NodeProto()
        made.CopyFrom(before if same else after)
        if not same:
            self._bodies(made, before, baseline)
        if self.forgetful:
            made.name = before.name or after.name if same else after.name or before.name
        elif after.name != baseline.name:
            made.name = after.name
        else:
            made.name = before.name
        if not made.name:
            made.ClearField("name")
        self._scalar(made, baseline, after, "doc_string", before)
        self._notes(made, before, baseline, after)
        return made

    def _bodies(self, made: NodeProto, before: NodeProto, baseline: NodeProto) -> None:
        """Attributes that were not touched, and what was not touched in the bodies of those that were."""
        old, base = ({attribute.name: attribute for attribute in node.attribute} for node in (before, baseline))
        for attribute in made.attribute:
            if attribute.type != AttributeProto.GRAPH or attribute.name not in old or attribute.name not in base:
                continue
            if old[attribute.name].HasField("g") and base[attribute.name].HasField("g"):
                merged = self.graphs(old[attribute.name].g, base[attribute.name].g, attribute.g)
                attribute.g.CopyFrom(merged)

    def _tensors(self, before: TensorProto, baseline: TensorProto | None, after: TensorProto) -> TensorProto:
        if baseline is not None and same_tensor(baseline, after):
            return before
        made = TensorProto()
        made.CopyFrom(after)
        if (
            before.HasField("doc_string")
            and not after.doc_string
            and (self.forgetful or not baseline or not baseline.doc_string)
        ):
            made.doc_string = before.doc_string
        return made

    def _scalar(
        self, made: Message, baseline: Message, after: Message, field: str, before: Message | None = None
    ) -> None:
        """Take over a field that the function set."""
        value = getattr(after, field)
        if value != getattr(baseline, field) and (value or not self.forgetful):
            setattr(made, field, value)
        elif before is not None and before.HasField(field):
            setattr(made, field, getattr(before, field))

    def _notes(self, made: Any, before: Any, baseline: Any, after: Any) -> None:
        notes = self._list(
            before.metadata_props,
            baseline.metadata_props,
            after.metadata_props,
            lambda each: each.key,
            alive=[each.key for each in before.metadata_props],
            forgetful=self.forgetful,
        )
        _set(made.metadata_props, notes)

    def _list(
        self,
        before: Iterable[_M],
        baseline: Iterable[_M],
        after: Iterable[_M],
        key: _Key,
        merge: Callable[[_M, _M | None, _M], _M] | None = None,
        *,
        alive: Collection[Any] = (),
        forgetful: bool = False,
        sorted_as_before: bool = False,
    ) -> list[_M]:
        """A list whose elements have keys: those of `after`, as they were before where they were not touched.

        What the way there and back has lost is put back among them if it is in `alive`; with `forgetful`, also what
        `after` alone lacks.
        """
        old, base = {key(each): each for each in before}, {key(each): each for each in baseline}
        made: dict[Any, _M] = {}
        for each in after:
            name = key(each)
            if name not in old:
                if name not in base or base[name] != each:  # otherwise the way there and back has put it in
                    made[name] = each
            elif merge is not None:
                made[name] = merge(old[name], base.get(name), each)
            else:
                made[name] = old[name] if name in base and base[name] == each else each
        lost = [name for name in old if name not in made and name in alive and (forgetful or name not in base)]
        if not lost and not sorted_as_before:
            return list(made.values())
        if sorted_as_before:
            kept = [name for name in old if name in made or name in lost]
            order = [*kept, *(name for name in made if name not in old)]
        else:
            order = _inserted(list(old), list(made), lost)
        return [made[name] if name in made else old[name] for name in order]


def _inserted(old: list[Any], order: list[Any], lost: Iterable[Any]) -> list[Any]:
    """`order` with each of the lost behind what stood before it."""
    for name in lost:
        position = 0
        for former in reversed(old[: old.index(name)]):
            if former in order:
                position = order.index(former) + 1
                break
        order.insert(position, name)
    return order


def _list_initializers(made: GraphProto, before: GraphProto) -> None:
    """Up to IR version 3 an initializer is an input as well: what is none any more is none of the other either.

    A body cannot have other inputs than it has: what a tool stores there becomes a Constant.
    """
    for body in list(every_graph(made))[1:]:
        given = {value.name for value in body.input}
        for tensor in [tensor for tensor in body.initializer if tensor.name not in given]:
            constant = NodeProto(op_type="Constant", output=[tensor.name])
            constant.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(tensor)
            constant.attribute[0].t.ClearField("name")
            body.initializer.remove(tensor)
            body.node.insert(0, constant)
    formerly = {tensor.name for tensor in before.initializer}
    now = {tensor.name for tensor in made.initializer}
    for value in [value for value in made.input if value.name in formerly - now]:
        made.input.remove(value)
    listed = {value.name for value in made.input}
    for tensor in made.initializer:
        if tensor.name not in listed:
            made.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _as_before(before: _M, _baseline: _M | None, _after: _M) -> _M:
    return before


def _set(field: Any, values: Sequence[Any]) -> None:
    """Make a repeated field hold these, copying nothing where it does already."""
    if len(field) == len(values) and all(
        one is other or one == other for one, other in zip(field, values, strict=True)
    ):
        return
    copies = []
    for value in values:  # some may stand in the field that is emptied
        copy = type(value)()
        copy.CopyFrom(value)
        copies.append(copy)
    del field[:]
    field.extend(copies)


def _name(each: Any) -> str:
    name: str = each.name
    return name


def _domain(each: Any) -> str:
    return "" if each.domain == "ai.onnx" else str(each.domain)


def _made_value(node: NodeProto) -> Any:
    """The first value that a node makes, which identifies it in its scope."""
    return next((output for output in node.output if output), None) or (node.op_type, node.name, tuple(node.input))


def _every_node(bodies: Iterable[GraphProto | FunctionProto]) -> Iterable[NodeProto]:
    for body in bodies:
        for node in body.node:
            yield node
            for attribute in node.attribute:
                yield from _every_node([attribute.g] if attribute.HasField("g") else attribute.graphs)
