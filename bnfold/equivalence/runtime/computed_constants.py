"""onnxruntime's opinion on constants that were computed, all in one session: each operator by itself, of its operands.

Operators that onnxruntime does not have in some type have no opinion here; neither have element types that it cannot
be handed.
"""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from bnfold.activity import doing
from bnfold.equivalence.numbers.element_types import Array
from bnfold.equivalence.runtime.sessions import Optimization, RunFailed, opened, quiet_options
from bnfold.graph import Evaluation, agree

# Of one session: what is larger is left to the other opinions.
_MOST_BYTES = 64 << 20
_IR_VERSION = 10
_NUMPYS_OWN = {np.dtype(letter) for letter in "?bhilBHILefd"}


def contradictions(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str], str]:
    """The objections of onnxruntime to what was believed, by scope and first output; empty where it has none.

    Raises BnfoldError where onnxruntime is not installed and there is something to ask.
    """
    found: dict[tuple[str, str], str] = {}
    for together in _batches(evaluations):
        found |= _asked(together)
    return found


def _batches(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """The evaluations in batches, usually one: each of one operator set version and of bounded size."""
    batches: dict[int, list[list[Evaluation]]] = {}
    sizes: dict[int, int] = {}
    for each in evaluations:
        nbytes = sum(array.nbytes for array in (*each.operands, *each.made) if array is not None)
        if nbytes > _MOST_BYTES or not _can_be_handed_over(each):
            continue
        sizes[each.opset] = sizes.get(each.opset, _MOST_BYTES) + nbytes
        if sizes[each.opset] > _MOST_BYTES:
            batches.setdefault(each.opset, []).append([])
            sizes[each.opset] = nbytes
        batches[each.opset][-1].append(each)
    return [batch for of_version in batches.values() for batch in of_version]


def _can_be_handed_over(each: Evaluation) -> bool:
    arrays = [array for array in (*each.operands, *each.made) if array is not None]
    return all(array.dtype in _NUMPYS_OWN for array in arrays)


def _asked(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str], str]:
    model, feed = _model(evaluations)
    try:
        with (
            doing(f"computing {len(evaluations)} constants in onnxruntime"),
            opened(model.SerializeToString(), quiet_options(Optimization.OFF), ["CPUExecutionProvider"]) as session,
        ):
            theirs = session.run(feed)
    except RunFailed:
        kinds: dict[object, list[Evaluation]] = {}
        for each in evaluations:
            dtypes = tuple(None if array is None else array.dtype for array in each.operands)
            kinds.setdefault((each.node.op_type, dtypes), []).append(each)
        if len(kinds) == 1:
            return {}  # it has no such operator
        parts = [_asked(kind) for kind in kinds.values()]
        return {key: text for part in parts for key, text in part.items()}
    return {
        (each.scope, each.node.output[0]): "onnxruntime makes something else of it"
        for index, each in enumerate(evaluations)
        if not _is_same(index, each, theirs)
    }


def _is_same(index: int, each: Evaluation, theirs: dict[str, Array]) -> bool:
    for position, (name, made) in enumerate(zip(each.node.output, each.made, strict=True)):
        other = theirs.get(f"made{index}.{position}")
        if not name or other is None:
            continue
        if other.shape != made.shape or other.dtype != made.dtype:
            return False
        counts = each.known if position == 0 else None
        if not agree(made, other) and (counts is None or not agree(made[counts], other[counts])):
            return False
    return True


def _model(evaluations: Sequence[Evaluation]) -> tuple[ModelProto, dict[str, Array]]:
    """One model of all of them side by side, and its feed: operands that several share are one input."""
    model = ModelProto(ir_version=_IR_VERSION, opset_import=[helper.make_opsetid("", evaluations[0].opset)])
    model.graph.name = "constants"
    names: dict[int, str] = {}
    feed: dict[str, Array] = {}
    for index, each in enumerate(evaluations):
        node = NodeProto()
        node.CopyFrom(each.node)
        node.name, node.domain = "", ""
        del node.input[:]
        for array in each.operands:
            if array is not None and id(array) not in names:
                name = names[id(array)] = f"operand{len(names)}"
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
                feed[name] = array
            node.input.append("" if array is None else names[id(array)])
        node.output[:] = [f"made{index}.{at}" if name else "" for at, name in enumerate(each.node.output)]
        model.graph.node.append(node)
        model.graph.output.extend(ValueInfoProto(name=name) for name in node.output if name)
    return model, feed
