"""`Model`: every scope of one ONNX model, the table of names, and the record of what was edited."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto

from bnfold.activity import doing
from bnfold.graph.attributes import DEFAULT_DOMAINS
from bnfold.graph.collector import paused_collector
from bnfold.graph.dataflow import nested_in
from bnfold.graph.graph import Graph, Use, scopes
from bnfold.graph.shapes import agreed, contradicts, follow, has_rank, inferred, known_sizes, merged
from bnfold.graph.soundness import check_soundness
from bnfold.graph.tensor import TensorPayload
from bnfold.graph.witness import Evaluations
from bnfold.lifetime import closed_at_the_end
from bnfold.onnxfile import OnnxFile, Stored, without_negative_dims

_DEEPEST_CALL = 16


class Edit(NamedTuple):
    """One edit: what was done, in which scope, to which node."""

    kind: str
    scope: str
    node: str


class Model:
    """The structure of a model as scopes that can be asked and edited; weights stay in `file`.

    A pass is given one. It may ask `graphs` (every scope: the main graph, bodies and functions), `main`, `functions`,
    `opset`, `owner` (the scope a node stands in) and `fresh_name`, and edits through the graphs.

    >>> from bnfold.onnxfile import read
    >>> model = Model(read("in.onnx"))
    >>> [graph.scope for graph in model.graphs], len(model.main.nodes())
    ([''], 18)
    >>> node = model.main.nodes()[0]
    >>> model.owner(node) is model.main, model.fresh_name("conv")
    (True, 'conv')
    >>> model.modified
    False

    `assume_constant_initializers` treats initializers that are also graph inputs as constants at every IR version. Up
    to IR version 3 every initializer had to be listed as an input, so there they always are constants. `looks_late`:
    what has to be seen of large weights may be looked at while they are written, which then may raise `Refused`.
    `evaluations` notes what is believed of constants, and says what is not to be. `as_read`: the same structure once
    more, which nobody edits, so that none of this one has to be kept to infer shapes from. Raises ModelError for a
    structure that is not sound (`bnfold.graph.soundness`).
    """

    def __init__(
        self,
        file: OnnxFile,
        *,
        assume_constant_initializers: bool = False,
        looks_late: bool = False,
        evaluations: Evaluations | None = None,
        as_read: ModelProto | None = None,
    ) -> None:
        self.file = file
        self.evaluations = evaluations
        self.looks_late = looks_late
        self.proto: ModelProto = file.proto
        self.lists_initializers = self.proto.ir_version < 4
        self.inputs_are_constants = self.lists_initializers or assume_constant_initializers
        self.edits: list[Edit] = []
        self.graphs: list[Graph] = []
        self.holders: dict[int, NodeProto] = {}  # by scope: the node that has it as a body
        # Labels of operators as they were read, noted by the first pass that asks: an output may get another name.
        self.first_labels: dict[int, str] | None = None
        self.made_from: dict[
            int, str
        ] = {}  # by id of a node that an edit made: the operator of the input it stands for
        self._by_dataflow: list[Graph] = []
        self._bodies: dict[int, list[Graph]] = {}  # by scope: those nested directly in it
        self.unresolved: list[tuple[Graph, str, NodeProto]] = []  # what a node reads and nothing makes, as it was read
        self.absent: list[Use] = []  # inputs that nodes leave out, as it was read
        self._owners: dict[int, Graph] = {}
        self.evaluated_bytes = 0  # by all constant expressions together, and those that are kept in memory
        self.kept_bytes = 0
        self.nesting = 0
        self.opinions: dict[Hashable, str | None] = {}  # of the witness, on constants that were computed
        self._names: set[str] | None = None
        self._types: dict[int, dict[str, TypeProto]] | None = None
        self._declared: dict[int, dict[str, TypeProto]] = {}  # as the file said when it was read
        self._callers: dict[tuple[str, str], list[tuple[Graph, NodeProto]]] | None = None
        self._unproved: set[tuple[int, str]] = set()  # by scope: values of whose sizes only a declaration tells some
        self._settled: dict[int, dict[str, TypeProto | None]] = {}
        self.stale: list[tuple[Graph, str]] = []  # values whose declared type contradicts what is inferred
        self._edited: set[int] = set()
        self._aliases: dict[str, str] = {}
        self._as_read = as_read
        self._before_edits: bytes | None = None
        self._gone: defaultdict[int, set[str]] = defaultdict(set)  # by scope: values that no node makes any more
        closed_at_the_end(self, memory_alone=True)
        self._opsets = {opset.domain: opset.version for opset in self.proto.opset_import}
        self.functions = {(function.domain, function.name): function for function in self.proto.functions}
        with paused_collector():
            self.main = self._enter(self.proto.graph, None, "")
            for function in self.proto.functions:
                self._enter(function, None, f"{function.domain}::{function.name}")
            self._order_by_dataflow()
            for graph in self.by_dataflow():
                graph.index_uses()
            check_soundness(self)

    def _enter(self, body: GraphProto | FunctionProto, parent: Graph | None, scope: str) -> Graph:
        graph = Graph(self, body, parent, scope)
        self.graphs.append(graph)
        self._owners.update(dict.fromkeys(map(id, graph.nodes()), graph))
        for node, name, nested in scopes(body):
            body_graph = self._enter(nested, graph, f"{scope}/{graph.label(node)}.{name}".lstrip("/"))
            self._bodies.setdefault(id(graph), []).append(body_graph)
            self.holders[id(body_graph)] = node
        return graph

    def _order_by_dataflow(self) -> None:
        captured: dict[int, list[str]] = {}
        for graph in reversed(self.graphs):  # bodies before what they are nested in
            values = graph.order_by_dataflow(captured)
            if graph is not self.main and (holder := self.holders.get(id(graph))) is not None:
                captured[id(holder)] = [*values, *captured.get(id(holder), ())]
        waiting = [graph for graph in reversed(self.graphs) if graph.parent is None]
        while waiting:
            graph = waiting.pop()
            self._by_dataflow.append(graph)
            if id(graph) in self._bodies:
                position = {id(node): at for at, node in enumerate(graph.by_dataflow())}
                bodies = sorted(self._bodies[id(graph)], key=lambda body: position[id(self.holders[id(body)])])
                waiting += reversed(bodies)

    def by_dataflow(self) -> list[Graph]:
        """Every scope, in an order that the order of the nodes in the file does not change."""
        return list(self._by_dataflow)

    def close(self) -> None:
        """Let go of everything: the model and its scopes, which refer to each other, hold the file."""
        for graph in vars(self).get("graphs", ()):
            vars(graph).clear()
        vars(self).clear()

    @property
    def modified(self) -> bool:
        """Whether any edit was made."""
        return bool(self.edits)

    def opset(self, function: FunctionProto | None, domain: str = "") -> int:
        """The imported version of an operator set, 1 where it is not imported; `function` imports its own."""
        versions = self._opsets if function is None else {o.domain: o.version for o in function.opset_import}
        names = DEFAULT_DOMAINS if domain in DEFAULT_DOMAINS else (domain,)
        return next((versions[name] for name in names if name in versions), 1)

    def owner(self, node: NodeProto) -> Graph:
        """The scope `node` stands in."""
        return self._owners[id(node)]

    def bodies(self, graph: Graph) -> Sequence[Graph]:
        """The bodies nested directly in `graph`."""
        return self._bodies.get(id(graph), ())

    def adopt(self, graph: Graph, node: NodeProto) -> None:
        """Enter a new node; `Graph.insert` calls this."""
        self._owners[id(node)] = graph

    def is_function_call(self, node: NodeProto) -> bool:
        """Whether `node` calls a model-local function."""
        return (node.domain, node.op_type) in self.functions

    def fresh_name(self, base: str) -> str:
        """`base`, or `base_1`, `base_2`, ... : the first that names no value and no node anywhere in the model."""
        if self._names is None:
            self._names = set().union(*(graph.names() for graph in self.graphs))
        name, count = base, 0
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name

    def record(self, kind: str, graph: Graph, label: str, node: NodeProto | None = None) -> None:
        """Enter an edit; every method of the door ends here. `node` is given where its inputs or attributes changed."""
        self.edits.append(Edit(kind, graph.scope, label))
        if node is not None:
            self._edited.add(id(node))

    def was_edited(self, node: NodeProto) -> bool:
        """Whether an input, a constant or an attribute of `node` was changed."""
        return id(node) in self._edited

    def about_to_edit(self) -> None:
        """Remember the structure as it was read: shapes are inferred from it, also after the first edit."""
        if self._before_edits is None and self._types is None and self._as_read is None:
            self._before_edits = self.proto.SerializeToString()

    @cached_property
    def has_data_files(self) -> bool:
        """Whether any bytes of tensors lie in a file of their own; edits put none there where none were."""
        return any(stored.location is not None for stored in self.file.payloads)

    def add_payload(self, payload: TensorPayload, like: int | None) -> int:
        """Enter computed tensor bytes; they are stored where those of payload `like` were, or inline. Its index."""
        location = None if like is None else self.file.payloads[like].location
        self.file.payloads.append(Stored(payload, location))
        return len(self.file.payloads) - 1

    def value_type(self, graph: Graph, value: str) -> TypeProto | None:
        """The type of a value defined in `graph`: as it is inferred, else as the file says; None where unknown."""
        value = self._aliases.get(value, value)
        settled = self.settled_types(graph)
        if value not in settled:
            found = self.noted_type(graph, value)
            if self.is_settled_by(graph, found) or not graph.defines(value):
                settled[value] = self.believed(graph, value, found)
            else:
                follow(self, graph, value)
        return settled[value]

    def is_settled_by(self, graph: Graph, found: TypeProto | None) -> bool:
        """Whether no more is to be looked for than what inference has `found` of a value of `graph`.

        In a body or a function inference sees none of the constants around it, and knows no argument.
        """
        if not has_rank(found) or graph is self.main:
            return has_rank(found)
        sizes = known_sizes(found)
        return sizes is None or None not in sizes

    def settled_types(self, graph: Graph) -> dict[str, TypeProto | None]:
        """The types that values of `graph` were found to have, as far as anybody asked."""
        if self._types is None:
            self._types = {}
            as_read = self.proto if self._as_read is None else self._as_read
            structure = without_negative_dims(self._before_edits or as_read.SerializeToString())
            self._before_edits = self._as_read = None
            with doing("inferring shapes with onnx"):
                found = inferred(structure)
            self._note_types(self.main, found.graph)
            for graph_, function in zip(self._function_scopes(), found.functions, strict=True):
                self._note_types(graph_, function)
        return self._settled.setdefault(id(graph), {})

    def noted_type(self, graph: Graph, value: str) -> TypeProto | None:
        """The inferred type of `value`; valid after `settled_types`."""
        if self._types is None:
            return None
        if isinstance(graph.body, FunctionProto) and value in graph.body.input:
            return self._argument_type(graph, value)
        return self._types[id(graph)].get(value)

    def _argument_type(self, graph: Graph, value: str) -> TypeProto | None:
        """What all who call a function hand over as `value`."""
        function, types = graph.body, {} if self._types is None else self._types[id(graph)]
        if isinstance(function, FunctionProto) and value not in types and self.nesting < _DEEPEST_CALL:
            self.nesting += 1
            try:
                found = []
                position = list(function.input).index(value)
                for home, node in self._calls(function):
                    operand = node.input[position] if position < len(node.input) else ""
                    found.append(home.value_type(operand) if operand else None)
                    if operand and (owner := home.resolve(operand)) is not None:
                        self.note_unproved(graph, value, [(owner, operand)])
                if (kind := agreed(found)) is not None:
                    types[value] = kind
            finally:
                self.nesting -= 1
        return types.get(value)

    def results_of(self, call: NodeProto) -> dict[str, TypeProto]:
        """By output of `call`, which calls a function: the types that hold for whoever calls it."""
        function = self.functions[call.domain, call.op_type]
        inside = self._function_scopes()[list(self.functions).index((call.domain, call.op_type))]
        found = {name: inside.value_type(result) for name, result in zip(call.output, function.output, strict=False)}
        return {name: kind for name, kind in found.items() if kind is not None}

    def _calls(self, function: FunctionProto) -> list[tuple[Graph, NodeProto]]:
        """Who calls a function, with the scope of each, as the model was read."""
        if self._callers is None:
            self._callers = {}
            for graph in self.graphs:
                for node in graph.nodes():
                    if self.is_function_call(node):
                        self._callers.setdefault((node.domain, node.op_type), []).append((graph, node))
        return self._callers.get((function.domain, function.name), [])

    def believed(self, graph: Graph, value: str, found: TypeProto | None) -> TypeProto | None:
        """The type of `value` that was `found`, completed by what the file declares where the two agree."""
        declared = self._declared.get(id(graph), {}).get(value)
        if declared is None or (found is not None and contradicts(declared, found)):
            return found
        both = merged(declared, found)
        if known_sizes(both) != known_sizes(found):
            self._unproved.add((id(graph), value))
        return both

    def note_unproved(self, graph: Graph, value: str, operands: Iterable[tuple[Graph, str]]) -> None:
        """Enter that the sizes of `value` follow from those of `operands`, of which perhaps only declarations tell."""
        if any((id(home), operand) in self._unproved for home, operand in operands):
            self._unproved.add((id(graph), value))

    def has_proved_sizes(self, graph: Graph, value: str) -> bool:
        """Whether what is known of the shape of a value defined in `graph` follows from the inputs and the operators.

        Else it is what the file declares of a value inside, which nothing keeps true: who gives a model another batch
        size often forgets it.
        """
        value = self._aliases.get(value, value)
        self.value_type(graph, value)
        return (id(graph), value) not in self._unproved

    def known_value(self, value: str) -> str:
        """The value of the input that `value` has the type of, where an edit made it; else itself."""
        return self._aliases.get(value, value)

    def look_again(self, graph: Graph, value: str) -> None:
        """Forget that nothing told the rank of `value`: another operator makes it now."""
        settled = self._settled.get(id(graph), {})
        if value in settled and not has_rank(settled[value]):
            del settled[value]

    def look_again_everywhere(self) -> None:
        """Forget that nothing told the rank of a value: with other operators it may follow now."""
        for settled in self._settled.values():
            for value in [value for value, found in settled.items() if not has_rank(found)]:
                del settled[value]

    def alias(self, value: str, like: str) -> None:
        """Note that the new `value` has the type of `like`, which was there before the first edit."""
        if value != like:
            self._aliases[value] = self._aliases.get(like, like)

    def _function_scopes(self) -> list[Graph]:
        return [graph for graph in self.graphs if isinstance(graph.body, FunctionProto)]

    def note_bodies(self, graph: Graph, holder: NodeProto, found: NodeProto) -> None:
        """Note the types in the bodies of `holder`, which stands in `graph`, as they were `found`; more than before."""
        children = [child for child in self.bodies(graph) if self.holders[id(child)] is holder]
        for child, body in zip(children, nested_in([found]), strict=True):
            table = self._types[id(child)] if self._types is not None else {}
            for value in (*body.value_info, *body.input, *body.output):
                if value.HasField("type") and (kind := merged(table.get(value.name), value.type)) is not None:
                    table[value.name] = kind
            for node, inner in zip(child.body.node, body.node, strict=True):
                if inner.attribute:
                    self.note_bodies(child, node, inner)

    def _note_types(self, graph: Graph, body: GraphProto | FunctionProto) -> None:
        assert self._types is not None
        table = self._types[id(graph)] = {value.name: value.type for value in body.value_info}
        if isinstance(body, GraphProto):
            table.update({value.name: value.type for value in (*body.input, *body.output) if value.HasField("type")})
        if id(graph) in self._bodies:
            for child, (_, _, nested) in zip(self._bodies[id(graph)], scopes(body), strict=True):
                self._note_types(child, nested)
        declared = {value.name: value.type for value in graph.body.value_info}
        if declared:
            self._declared[id(graph)] = declared
            contradicted = (name for name, said in declared.items() if name in table and contradicts(said, table[name]))
            self.stale.extend((graph, name) for name in contradicted)
        if graph is self.main:
            outputs = {value.name: value.type for value in self.proto.graph.output if value.HasField("type")}
            self._declared[id(graph)] = declared | outputs

    def forget_value_info(self, graph: Graph, *values: str) -> None:
        """Drop what the file says about values that are gone, when the edits are finished."""
        self._gone[id(graph)].update(values)

    def bury_the_dead(self) -> None:
        """Remove what edits left without a reader, so that it counts as no reader either."""
        busy = True
        while busy:  # a body may have held the last use of a value outside
            busy = any(graph.bury_the_dead() for graph in reversed(self.graphs))

    def finish(self) -> None:
        """Write every edit into the protobuf: node order, dead constants, types of values that are gone.

        Innermost scopes first: ordering the nodes of a scope copies them, with the bodies they hold.
        """
        self.bury_the_dead()
        for graph, value in self.stale if self.modified else ():
            graph.forget_declaration(value)
        for graph in reversed(self.graphs):
            graph.finish(self._gone.pop(id(graph), frozenset()))
