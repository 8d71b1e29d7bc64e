"""The order in which passes walk: that of the data, whatever order the file lists its nodes in."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from onnx import FunctionProto, GraphProto, NodeProto

Body = GraphProto | FunctionProto
Reads = Mapping[int, Sequence[str]]
"""By the id of a node: the values that it reads, and behind them those that its bodies read from around it."""


def nodes_by_dataflow(body: Body) -> list[NodeProto]:
    """The nodes of `body` in the order of the data, see `in_dataflow_order`."""
    return _ordered(body)[0]


def sort_by_dataflow(body: Body) -> None:
    """Put the nodes of `body`, and of every body nested in it, into the order of the data."""
    for nested in nested_in(body.node):
        sort_by_dataflow(nested)
    position = {tuple(node.output): at for at, node in enumerate(nodes_by_dataflow(body))}
    body.node.sort(key=lambda node: position[tuple(node.output)])


def is_sorted(body: Body) -> bool:
    """Whether each node of `body` stands behind those whose values it reads, in every nested body too."""
    left = {value for node in body.node for value in node.output}
    left.discard("")
    for node in body.node:
        if not left.isdisjoint(node.input):
            return False
        for nested in nested_in([node]):
            if not is_sorted(nested) or not left.isdisjoint(_ordered(nested)[1]):
                return False
        left.difference_update(node.output)
    return True


def read_around(body: GraphProto) -> dict[str, None]:
    """The values that `body`, or a body nested in it, reads and that the scopes around it define."""
    read = dict.fromkeys(value for node in body.node for value in node.input if value)
    for nested in nested_in(body.node):
        read |= read_around(nested)
    read |= dict.fromkeys(value.name for value in body.output)
    inside = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    inside.update(tensor.values.name for tensor in body.sparse_initializer)
    inside.update(value for node in body.node for value in node.output)
    return {value: None for value in read if value not in inside}


def nested_in(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    """The bodies that `nodes` hold, without those nested in them."""
    for node in nodes:
        for attribute in node.attribute or ():
            yield from [attribute.g] if attribute.HasField("g") else attribute.graphs


def _ordered(body: Body) -> tuple[list[NodeProto], list[str]]:
    """The nodes in order, and the values that they read from around `body`."""
    nodes = list(body.node)
    reads: dict[int, list[str]] = {}
    for node in nodes:
        inside = [value for nested in nested_in([node]) for value in _ordered(nested)[1]]
        reads[id(node)] = node.input[:] + inside
    producers = {value: node for node in nodes for value in node.output if value}
    outputs = list(body.output) if isinstance(body, FunctionProto) else [value.name for value in body.output]
    order = in_dataflow_order(nodes, outputs, producers, reads)
    return order, captures(order, outputs, producers, reads)


def captures(order: Sequence[NodeProto], outputs: Sequence[str], inside: Collection[str], reads: Reads) -> list[str]:
    """What a scope with the nodes `order` reads that is not among the values `inside` it, in the order of the data."""
    read = dict.fromkeys(value for node in order for value in reads[id(node)])
    return [value for value in (read | dict.fromkeys(outputs)) if value not in inside]


def in_dataflow_order(
    nodes: Sequence[NodeProto], outputs: Iterable[str], producers: Mapping[str, NodeProto], reads: Reads
) -> list[NodeProto]:
    """`nodes` of one scope, each behind those whose values it needs, where these are no cycle.

    Depth first from the `outputs` of the scope, the first operand first: neither names nor the order of `nodes` decide.
    Nodes that no output depends on come last.
    """
    order: list[NodeProto] = []
    entered: set[int] = set()
    _enter(filter(None, map(producers.get, outputs)), producers, reads, entered, order)
    if len(order) < len(nodes):
        _enter(_dead_ends(nodes, producers, reads, entered, order), producers, reads, entered, order)
        _enter(nodes, producers, reads, entered, order)  # what is left are cycles
    return order


def _enter(
    roots: Iterable[NodeProto],
    producers: Mapping[str, NodeProto],
    reads: Reads,
    entered: set[int],
    order: list[NodeProto],
) -> None:
    """Append what `roots` depend on, and each of them, in post-order."""
    for root in roots:
        if id(root) in entered:
            continue
        entered.add(id(root))
        path = [root]
        waiting = [_makers(root, producers, reads)]  # of each node on the path, those not looked at
        while path:
            makers = waiting[-1]
            while makers:
                maker = makers.pop()
                number = id(maker)
                if number not in entered:
                    entered.add(number)
                    path.append(maker)
                    waiting.append(_makers(maker, producers, reads))
                    break
            else:
                order.append(path.pop())
                waiting.pop()


def _makers(node: NodeProto, producers: Mapping[str, NodeProto], reads: Reads) -> list[NodeProto]:
    """What makes the operands of `node`, the first operand last."""
    return list(filter(None, map(producers.get, reversed(reads[id(node)]))))


def _dead_ends(
    nodes: Sequence[NodeProto],
    producers: Mapping[str, NodeProto],
    reads: Reads,
    entered: set[int],
    order: Sequence[NodeProto],
) -> list[NodeProto]:
    """Those of the nodes that were not entered which nothing reads, by what they are and read; only then by name."""
    left = [node for node in nodes if id(node) not in entered]
    read = {id(maker) for node in left for maker in _makers(node, producers, reads)}
    position = {id(node): at for at, node in enumerate(order)}

    def what(node: NodeProto) -> tuple[object, ...]:
        makers = [position.get(id(maker), -1) for maker in _makers(node, producers, reads)]
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        return node.op_type, node.domain, len(node.input), makers, attributes, node.output[:]

    return sorted((node for node in left if id(node) not in read), key=what)
