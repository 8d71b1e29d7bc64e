"""The label of a node: its own name, unless another node of its scope has the same one, else its first output.

Names of nodes need not differ, and exporters write many of one name; names of values must.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from onnx import NodeProto


def shared_names(nodes: Iterable[NodeProto]) -> frozenset[str]:
    """The names that two or more of these nodes of one scope have."""
    return shared_among(node.name for node in nodes)


def shared_among(every: Iterable[str]) -> frozenset[str]:
    """Those of the names of the nodes of one scope that are there more than once."""
    names = [name for name in every if name]
    if len(set(names)) == len(names):
        return frozenset()
    return frozenset(name for name, count in Counter(names).items() if count > 1)


def label(node: NodeProto, shared: AbstractSet[str]) -> str:
    """The label of `node` in a scope with these shared names; its operator where it has no name at all."""
    own = node.name
    if own and own not in shared:
        return own
    return next((output for output in node.output if output), own or node.op_type)
