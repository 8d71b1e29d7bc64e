"""Whether two models are the same outside the rewrites that were proved: then the proofs speak for the whole."""

from collections.abc import Mapping, Sequence

from onnx import NodeProto

from bnfold.equivalence.proof import Rewrite
from bnfold.equivalence.regions import Cutter, Scope, Uncut, reads, same_bytes
from bnfold.equivalence.signature import difference, signature_of


def unexplained(before: Cutter, after: Cutter, rewrites: Sequence[Rewrite]) -> str:
    """What differs between the models and lies in no rewrite: one sentence, "" for nothing."""
    contract = difference(signature_of(before.model), signature_of(after.model))
    if contract:
        return contract
    if len(before.scopes) != len(after.scopes):
        return "The models do not have the same nested bodies and functions."
    if sorted(map(str, before.model.opset_import)) != sorted(map(str, after.model.opset_import)):
        return "The models import different operator sets."
    renamed = {old: new for rewrite in rewrites for old, new in rewrite.renamed.items()}
    leaving = {name for rewrite in rewrites for name in rewrite.outputs}
    try:
        old_inside = _inside(before, rewrites, {})
        new_inside = _inside(after, rewrites, renamed)
    except Uncut as why:
        return f"A rewrite cannot be found: {why}."
    for index, (old, new) in enumerate(zip(before.scopes, after.scopes, strict=True)):
        kept_old = _outside(old, old_inside.get(index, set()), leaving)
        kept_new = _outside(new, new_inside.get(index, set()), {renamed.get(name, name) for name in leaving})
        found = _nodes(old, new, kept_old, kept_new, before, after, renamed)
        found = found or _constants(old, new, kept_new, before, after)
        if found:
            return found
    return ""


def _nodes(
    old: Scope,
    new: Scope,
    kept_old: set[int],
    kept_new: set[int],
    before: Cutter,
    after: Cutter,
    renamed: Mapping[str, str],
) -> str:
    wanted = {_signed(old.nodes[node], before, renamed): node for node in kept_old}
    found = {_signed(new.nodes[node], after, {}): node for node in kept_new}
    for text, node in wanted.items():
        if text not in found:
            return f"Node {_label(old.nodes[node])} was changed or removed and no rewrite says so."
    for text, node in found.items():
        if text not in wanted:
            return f"Node {_label(new.nodes[node])} was added or changed and no rewrite says so."
    return ""


def _constants(old: Scope, new: Scope, kept: set[int], before: Cutter, after: Cutter) -> str:
    for name in sorted({name for node in kept for name in reads(new.nodes[node])} | set(new.leaving)):
        was, now = old.constant(name), new.constant(name)
        if was is None and now is None:
            continue
        if was is None or now is None or not same_bytes(was, now, before, after):
            return f"Constant {name!r} was changed and no rewrite says so."
    return ""


def _inside(cutter: Cutter, rewrites: Sequence[Rewrite], renamed: Mapping[str, str]) -> dict[int, set[int]]:
    """Scope -> the nodes that belong to rewrites."""
    nodes: dict[int, set[int]] = {}
    for rewrite in rewrites:
        names = [renamed.get(name, name) for name in (*rewrite.inputs, *rewrite.outputs)]
        region = cutter.region(names[: len(rewrite.inputs)], names[len(rewrite.inputs) :])
        nodes.setdefault(region.scope, set()).update(region.nodes)
    return nodes


def _outside(scope: Scope, inside: set[int], leaving: set[str]) -> set[int]:
    """The other nodes, and those inside that others read although no rewrite says that this value leaves it."""
    outside = set(range(len(scope.nodes))) - inside
    waiting = [list(scope.leaving), *(list(reads(scope.nodes[node])) for node in outside)]
    while waiting:
        for name in waiting.pop():
            producer = scope.producers.get(name)
            if producer is not None and producer not in outside and name not in leaving:
                outside.add(producer)
                waiting.append(list(reads(scope.nodes[producer])))
    return outside


def _signed(node: NodeProto, cutter: Cutter, renamed: Mapping[str, str]) -> bytes:
    """A node without its name, its documentation and the bodies inside it, which are scopes of their own."""
    plain = NodeProto(op_type=node.op_type, domain=node.domain)
    plain.input.extend(renamed.get(name, name) for name in node.input)
    plain.output.extend(renamed.get(name, name) for name in node.output)
    for attribute in sorted(node.attribute, key=lambda attribute: attribute.name):
        copied = plain.attribute.add()
        copied.CopyFrom(attribute)
        copied.ClearField("doc_string")
        copied.ClearField("g")
        del copied.graphs[:]
        if attribute.HasField("t"):
            copied.t.CopyFrom(cutter.with_bytes(attribute.t))
    return plain.SerializeToString(deterministic=True)


def _label(node: NodeProto) -> str:
    return repr(node.name or (node.output[0] if node.output else node.op_type)) + f" ({node.op_type})"
