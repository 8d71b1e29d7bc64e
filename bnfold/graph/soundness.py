"""The conditions on a model's structure that every other question relies on: names, order, functions, versions.

The rules are those of the ONNX specification (docs/IR.md of onnx 1.23) as onnxruntime 1.32 takes them: nodes may stand
in any order, a body may give one of its inputs or initializers a name that a scope around it uses, and nodes of a scope
may share a name, which a warning tells. Asks the index of each `Graph` where it can, since looking at every name of
the protobuf again would cost as much as indexing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING
from warnings import warn

import onnx
from onnx import FunctionProto, GraphProto, NodeProto, OperatorSetIdProto

from bnfold.errors import ModelError, ModelWarning
from bnfold.graph.attributes import DEFAULT_DOMAINS
from bnfold.onnxfile.tensors import HOLDERS, check_tensors_in

if TYPE_CHECKING:
    from bnfold.graph.graph import Graph
    from bnfold.graph.model import Model

# Functions that call functions can stand for exponentially many nodes, and every runtime writes them all out.
LARGEST_EXPANSION = 1_000_000
DEEPEST_CALLS = 100

FunctionKey = tuple[str, str, str]


def check_soundness(model: "Model") -> None:
    """Raise ModelError, in one line that names the file and the node or value, unless `model` is sound."""
    try:
        _check_versions(model)
        _check_scopes(model)
        _check_functions(model)
        _check_absent(model)
    except ValueError as problem:
        raise ModelError(f"{model.file.path or 'the model'}: {problem}") from problem
    _warn_of_shared_names(model)


def _warn_of_shared_names(model: "Model") -> None:
    shared = [(graph, name) for graph in model.graphs for name in sorted(graph.shared_names)]
    if shared:
        graph, name = shared[0]
        more = f" (and {len(shared) - 1} names more)" if len(shared) > 1 else ""
        warn(
            f"{model.file.path or 'the model'}: {_place(graph)}has more than one node named {name!r}{more}; each of "
            "them goes by its first output instead",
            ModelWarning,
            stacklevel=2,
        )


# ---------------------------------------------------------------------- versions


def _check_versions(model: "Model") -> None:
    ir_version = model.proto.ir_version
    if ir_version < 1:
        raise ValueError("says no IR version, which every ONNX model does; export it again")
    if ir_version > onnx.IR_VERSION:
        raise ValueError(
            f"has IR version {ir_version}, and the installed onnx {onnx.__version__} knows up to {onnx.IR_VERSION}: "
            "upgrade onnx, or export for an older one"
        )
    scopes: dict[int, list[Graph]] = {}
    for graph in model.graphs:
        scopes.setdefault(id(_root(graph)), []).append(graph)
    for first, *nested in scopes.values():
        if isinstance(first.body, FunctionProto):
            _check_imports(first.body.opset_import, [first, *nested], f"function {first.body.name!r}: ", ir_version)
        else:
            _check_imports(model.proto.opset_import, [first, *nested], "", ir_version)


def _check_imports(
    imports: Sequence[OperatorSetIdProto], graphs: Iterable["Graph"], where: str, ir_version: int
) -> None:
    newest = onnx.defs.onnx_opset_version()
    versions = {entry.version for entry in imports if entry.domain in DEFAULT_DOMAINS}
    if len(versions) > 1:
        raise ValueError(f"{where}imports the ONNX operator set in several versions ({_listed(versions)}); keep one")
    for version in versions:
        if version < 1:
            raise ValueError(
                f"{where}imports version {version} of the ONNX operator set, which never was; export again"
            )
        if version > newest:
            raise ValueError(
                f"{where}imports version {version} of the ONNX operator set, and the installed onnx {onnx.__version__} "
                f"knows up to {newest}: upgrade onnx, or export for an older operator set"
            )
    if versions or (ir_version < 3 and not where):  # before IR version 3 there was only one operator set
        return
    for graph in graphs:
        for node in graph.nodes():
            if node.domain in DEFAULT_DOMAINS:
                raise ValueError(
                    f"{where}imports no version of the ONNX operator set, so {_called(graph, node)} means nothing; "
                    "add an opset_import or export again"
                )


def _listed(versions: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(versions)))


def _root(graph: "Graph") -> "Graph":
    while graph.parent is not None:
        graph = graph.parent
    return graph


# ---------------------------------------------------------------------- names and order


def _check_scopes(model: "Model") -> None:
    for graph, value, node in model.unresolved:
        raise ValueError(f"{_called(graph, node)} reads {value!r}, which nothing makes; export the model again")
    positions: dict[int, dict[int, int]] = {}
    for graph in model.graphs:
        holder = model.holders.get(id(graph))
        if holder is not None and holder.op_type not in HOLDERS and isinstance(graph.body, GraphProto):
            check_tensors_in(graph.body)
        _check_names(graph)
        positions[id(graph)] = {number: position for position, number in enumerate(graph._nodes)}
    reads = _reads_of_bodies(model, positions)
    for graph in model.graphs:
        _check_order(graph, positions[id(graph)], reads.get(id(graph), []))


def _check_names(graph: "Graph") -> None:
    """Everything is made once, and every output is made: by counting, since the index holds each name once."""
    body = graph.body
    if len(graph._inputs) != len(graph._input_set):
        raise ValueError(f"{_place(graph)}has two inputs named {_twice(graph._inputs)!r}; give each its own name")
    if not isinstance(body, FunctionProto):
        stored = len(body.initializer) + len(body.sparse_initializer)
        if stored != len(graph._initializers.keys() | graph._sparse if graph._sparse else graph._initializers):
            names = [tensor.name for tensor in body.initializer]
            names += [tensor.values.name for tensor in body.sparse_initializer]
            raise ValueError(f"{_place(graph)}has two initializers named {_twice(names)!r}; give each its own name")
    made = sum(map(len, graph._made.values()))
    if made != len(graph._producers):  # also where an output is absent
        _check_made_once(graph)
    for given in (graph._input_set, graph._initializers, graph._sparse):
        if not graph._producers.keys().isdisjoint(given):
            value = min(graph._producers.keys() & given)
            maker = _called(graph, graph._producers[value])
            raise ValueError(f"{maker} makes {value!r}, which is an input or initializer already; rename one")
    for value in graph._outputs:
        if value not in graph._defined and graph.resolve(value) is None:
            raise ValueError(f"{_place(graph)}the output {value!r} is made by no node; export the model again")


def _check_made_once(graph: "Graph") -> None:
    makers: dict[str, NodeProto] = {}
    for node in graph.nodes():
        for output in node.output:
            if output in makers:
                both = f"{_called(graph, makers[output])} and {_called(graph, node)}"
                raise ValueError(f"{both} both make {output!r}; give each its own name")
            if output:
                makers[output] = node


def _reads_of_bodies(model: "Model", positions: dict[int, dict[int, int]]) -> dict[int, list[tuple[str, int]]]:
    """By scope: each value that a body nested in it reads from it, and the position of the node that holds the body."""
    reads: dict[int, list[tuple[str, int]]] = {}
    for graph in model.graphs:
        if graph.parent is None:
            continue
        for value in _names_read(graph):
            if value and value not in graph._defined and (home := graph.resolve(value)) is not None:
                reads.setdefault(id(home), []).append((value, positions[id(home)][_holder_in(home, graph)]))
        for value, node in graph._producers.items():
            home = graph.parent.resolve(value)
            if home is not None and _is_made_before(home, value, _holder_in(home, graph), positions[id(home)]):
                raise ValueError(f"{_called(graph, node)} makes {value!r}, a name that is taken around it; rename one")
    return reads


def _names_read(graph: "Graph") -> Iterator[str]:
    for node in graph.nodes():
        yield from node.input
    yield from graph._outputs


def _holder_in(home: "Graph", graph: "Graph") -> int:
    """The identity of the node of `home` in one of whose bodies, at any depth, `graph` is."""
    while graph.parent is not home:
        assert graph.parent is not None
        graph = graph.parent
    return id(graph.model.holders[id(graph)])


def _is_made_before(home: "Graph", value: str, holder: int, positions: dict[int, int]) -> bool:
    maker = home._producers.get(value)
    return maker is None or positions[id(maker)] < positions[holder]


def _check_order(graph: "Graph", positions: dict[int, int], bodies: list[tuple[str, int]]) -> None:
    """Nodes in order cannot form a cycle; others are looked at more closely."""
    if not _is_in_order(graph):
        _check_acyclic(graph, positions, bodies)
        return
    for value, reader in bodies:
        producer = graph._producers.get(value)
        if producer is not None and reader <= positions[id(producer)]:
            _check_acyclic(graph, positions, bodies)
            return


def _is_in_order(graph: "Graph") -> bool:
    """Whether each node stands behind those that make what it reads itself, its bodies aside."""
    left = set(graph._producers)
    for read, made in zip(graph._read.values(), graph._made.values(), strict=True):
        if not left.isdisjoint(read):
            return False
        left.difference_update(made)
    return True


def _check_acyclic(graph: "Graph", positions: dict[int, int], bodies: list[tuple[str, int]]) -> None:
    """Take away the nodes whose inputs are there, until none is left or none can be."""
    nodes = graph.nodes()
    reads = [(value, position) for position, node in enumerate(nodes) for value in node.input]
    waiting: list[set[int]] = [set() for _ in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for value, reader in (*reads, *bodies):
        maker = graph._producers.get(value)
        if maker is not None and (before := positions[id(maker)]) not in waiting[reader]:
            waiting[reader].add(before)
            readers[before].append(reader)
    ready = [position for position, before in enumerate(waiting) if not before]
    for position in ready:  # grows while it is walked
        for reader in readers[position]:
            waiting[reader].discard(position)
            if not waiting[reader]:
                ready.append(reader)
    if len(ready) == len(nodes):
        return
    position = next(position for position, before in enumerate(waiting) if before)
    seen: set[int] = set()
    while position not in seen:  # whoever waits, waits for one that waits: this ends on the cycle
        seen.add(position)
        position = min(waiting[position])
    raise ValueError(f"{_called(graph, nodes[position])} depends on its own output; remove the cycle, or export again")


def _twice(names: Iterable[str]) -> str:
    return next(name for name, count in Counter(names).items() if count > 1)


def _place(graph: "Graph") -> str:
    return f"{graph.scope}: " if graph.scope else ""


def _called(graph: "Graph", node: NodeProto) -> str:
    return f"{_place(graph)}node {graph.label(node)!r} ({node.op_type})"


# ---------------------------------------------------------------------- functions


def _check_functions(model: "Model") -> None:
    """No two of one name, none that calls itself, and no avalanche of calls."""
    if not model.proto.functions:
        return
    keys = [_key(function) for function in model.proto.functions]
    if len(set(keys)) != len(keys):
        domain, name, _ = next(key for key, count in Counter(keys).items() if count > 1)
        raise ValueError(f"defines the function {domain}::{name} twice; keep one")
    known = set(keys)
    calls: dict[FunctionKey | None, Counter[FunctionKey]] = {key: Counter() for key in (None, *keys)}
    size: dict[FunctionKey | None, int] = dict.fromkeys(calls, 0)
    for graph in model.graphs:
        body = _root(graph).body
        caller = _key(body) if isinstance(body, FunctionProto) else None
        nodes = graph.nodes()
        size[caller] += len(nodes)
        called = ((node.domain, node.op_type, node.overload) for node in nodes)
        calls[caller].update(key for key in called if key in known)
    _check_calls(calls, size)


def _check_calls(calls: dict[FunctionKey | None, Counter[FunctionKey]], size: dict[FunctionKey | None, int]) -> None:
    """Callees first; `size` becomes the number of nodes with every call written out."""
    callers: dict[FunctionKey, list[FunctionKey | None]] = {}
    for caller, called in calls.items():
        for key in called:
            callers.setdefault(key, []).append(caller)
    waiting = {caller: len(called) for caller, called in calls.items()}
    depth = dict.fromkeys(calls, 0)
    ready = [caller for caller, count in waiting.items() if not count]
    for callee in ready:  # grows while it is walked
        size[callee] += sum(size[key] * count for key, count in calls[callee].items())
        depth[callee] = max((depth[key] + 1 for key in calls[callee]), default=0)
        if size[callee] > LARGEST_EXPANSION or depth[callee] > DEEPEST_CALLS:
            what = f"more than {LARGEST_EXPANSION:,} nodes" if size[callee] > LARGEST_EXPANSION else "too many levels"
            raise ValueError(
                f"its functions call each other until they stand for {what}; inline some and drop the rest"
            )
        if callee is not None:
            for caller in callers.get(callee, ()):
                waiting[caller] -= 1
                if not waiting[caller]:
                    ready.append(caller)
    for caller, count in waiting.items():
        if count and caller is not None:
            raise ValueError(
                f"the function {caller[0]}::{caller[1]} calls itself, or one that does; ONNX has no recursion, "
                "so export it again without"
            )


def _key(function: FunctionProto) -> FunctionKey:
    return function.domain, function.name, function.overload


# ---------------------------------------------------------------------- inputs that are left out


def _check_absent(model: "Model") -> None:
    """An operator that takes any number of inputs is given each of them: onnxruntime reads what is absent, and dies.

    Through calls too, which may leave out arguments. Bodies may ask first (OptionalHasElement), so they are left alone.
    """
    absent = [(use, "") for use in model.absent]
    for graph, formal in _formals_left_out(model):
        absent += [(use, f": calls leave out {formal!r}") for use in graph.consumers(formal)]
    for (graph, node, position), why in absent:
        if graph.parent is None and _takes_any_number(graph, node, position):
            raise ValueError(
                f"{_called(graph, node)} has no value for its input number {position + 1}, and the operator needs "
                f"each that is listed{why}; remove it, or export the model again"
            )


def _formals_left_out(model: "Model") -> list[tuple["Graph", str]]:
    """The inputs of functions for which some call gives nothing, or an input for which its own caller has nothing."""
    if not model.proto.functions:
        return []
    bodies = {_key(graph.body): graph for graph in model.graphs if isinstance(graph.body, FunctionProto)}
    found: list[tuple[Graph, str]] = []
    for graph in model.graphs:
        for node in graph.nodes():
            callee = bodies.get((node.domain, node.op_type, node.overload))
            if callee is not None:
                given = [*node.input, *[""] * len(callee._inputs)]
                found += [(callee, formal) for formal, name in zip(callee._inputs, given, strict=False) if not name]
    found = list(dict.fromkeys(found))
    for graph, formal in found:  # grows while it is walked
        for use in graph.consumers(formal):
            callee = bodies.get((use.node.domain, use.node.op_type, use.node.overload))
            if callee is not None and use.position < len(callee._inputs):
                passed_on = callee, callee._inputs[use.position]
                found += [passed_on] if passed_on not in found else []
    return found


def _takes_any_number(graph: "Graph", node: NodeProto, position: int) -> bool:
    """Whether this input is one of a list of any length, by the schema of an operator of ONNX."""
    if node.domain not in DEFAULT_DOMAINS or (node.domain, node.op_type) in graph.model.functions:
        return False
    try:
        formals = onnx.defs.get_schema(node.op_type, graph.opset, "").inputs
    except onnx.defs.SchemaError:
        return False
    any_number = onnx.defs.OpSchema.FormalParameterOption.Variadic
    return bool(formals) and position >= len(formals) - 1 and formals[-1].option == any_number
