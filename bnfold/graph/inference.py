"""onnx's shape inference, where it is safe to ask and right.

Some models make it write beyond its memory, or compute for ever; and of pools it counts windows that nobody computes.
"""

import math
from collections.abc import Iterator, Sequence

from onnx import GraphProto, ModelProto, NodeProto, TypeProto, helper, numpy_helper, shape_inference

from bnfold.graph.dataflow import Body, is_sorted, sort_by_dataflow

# onnx counts the steps of a Slice of sizes in a C int (defs/tensor/defs.cc, its data propagation).
_FARTHEST = 2**31
_STORED_IS_CONSTANT = 4  # the IR version from which on what is stored is constant unless it is an input


_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_UNKNOWN_POOL = "PoolOfUnknownSize"  # no operator: inference stops there
_MOST_POOLS_IN_A_ROW = 8


def infer_shapes(model: ModelProto, structure: bytes | None = None) -> ModelProto:
    """`model` with every type that onnx infers, from known sizes too. `structure`: the same serialized, if at hand.

    onnx looks at each node once, in the order that the file has them in, and below IR version 4 at no initializer that
    is no input: it is shown another spelling, of pools too (`may_overcount`). Raises what onnx raises.
    """
    if not any(map(may_overcount, _nodes(model))):
        return _inferred(model, structure)
    shown = ModelProto.FromString(model.SerializeToString() if structure is None else structure)
    hidden = [(node, node.op_type) for node in _nodes(shown) if may_overcount(node)]
    for node, _ in hidden:
        node.op_type = _UNKNOWN_POOL
    for _ in range(_MOST_POOLS_IN_A_ROW):  # each time one more of those that follow each other is known
        found = _inferred(shown)
        sizes = _sizes(found)
        known = [(node, kind) for node, kind in hidden if node.input and node.input[0] in sizes]
        if not known:
            break
        for node, kind in known:
            node.op_type = kind
            count_as_runtimes_do(node, sizes[node.input[0]])
        hidden = [(node, kind) for node, kind in hidden if node.op_type == _UNKNOWN_POOL]
    else:
        found = _inferred(shown)
    for made, node in zip(_nodes(found), _nodes(model), strict=True):
        if may_overcount(node):
            made.CopyFrom(node)
    return found


def may_overcount(node: NodeProto) -> bool:
    """Whether onnx may count a window of a pool that no runtime computes: one that starts in the padding behind.

    With ceil_mode the last window may hang over the end, but has to start within the input or the padding in front of
    it: so say PyTorch's MaxPool2d and onnxruntime. onnx 1.23 rounds up whatever comes out. A window can start there
    only where the steps and the padding behind are larger than the window.
    """
    if node.op_type not in _POOLS or not any(each.name == "ceil_mode" and each.i for each in node.attribute):
        return False
    windows = _windows(node)
    return windows is not None and any(step + behind > reach for reach, step, _, behind in windows)


def count_as_runtimes_do(node: NodeProto, sizes: Sequence[int | None] | None) -> None:
    """Spell `node`, if it is such a pool, so that onnx counts the windows that runtimes compute.

    `sizes`: those of the axes that it reads, [N, C, ...], None where one is not known, or the rank is not.
    """
    windows = _windows(node) if may_overcount(node) and sizes is not None else None
    if windows is None or sizes is None or len(windows) != len(sizes) - 2:
        return
    more = []
    for (reach, step, before, behind), size in zip(windows, sizes[2:], strict=True):
        over = 0
        if size is not None and size + before + behind >= reach:
            count = math.ceil((size + before + behind - reach) / step) + 1
            count -= (count - 1) * step >= size + before
            over = max(0, (count - 1) * step + reach - size - before - behind)
        more.append(behind + over)
    kept = [each for each in node.attribute if each.name not in ("ceil_mode", "pads")]
    pads = helper.make_attribute("pads", [*(window[2] for window in windows), *more])
    del node.attribute[:]
    node.attribute.extend([*kept, pads])


def _windows(node: NodeProto) -> list[tuple[int, int, int, int]] | None:
    """For each axis: the reach of a window, the step, and the padding before and behind; None where that is open."""
    found = {each.name: each for each in node.attribute}
    if any(each.ref_attr_name for each in found.values()) or "kernel_shape" not in found:
        return None
    if "auto_pad" in found and found["auto_pad"].s not in (b"", b"NOTSET"):
        return None
    kernel = list(found["kernel_shape"].ints)
    rank = len(kernel)

    def ints(name: str, default: list[int]) -> list[int]:
        return list(found[name].ints) if name in found else default

    steps, spread, pads = ints("strides", [1] * rank), ints("dilations", [1] * rank), ints("pads", [0] * 2 * rank)
    if (len(steps), len(spread), len(pads)) != (rank, rank, 2 * rank) or min([*kernel, *steps, *spread], default=0) < 1:
        return None
    reach = [(side - 1) * apart + 1 for side, apart in zip(kernel, spread, strict=True)]
    return list(zip(reach, steps, pads[:rank], pads[rank:], strict=True))


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for body in bodies(model):
        yield from body.node


def _sizes(found: ModelProto) -> dict[str, list[int | None]]:
    """By value: the sizes of its axes, None where one is not known. What bodies call alike and is not, is not there."""
    types: dict[str, TypeProto | None] = {}
    for body in bodies(found):
        inputs = body.input if isinstance(body, GraphProto) else ()
        for value in (*inputs, *body.value_info):
            types[value.name] = value.type if types.get(value.name, value.type) == value.type else None
    return {
        name: sizes_of(kind) for name, kind in types.items() if kind is not None and kind.tensor_type.HasField("shape")
    }


def sizes_of(tensor: TypeProto) -> list[int | None]:
    """The size of each dim, None where it is not known: a number below zero is how some exporters say that."""
    dims = tensor.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims]


def _inferred(model: ModelProto, structure: bytes | None = None) -> ModelProto:
    structure = model.SerializeToString() if structure is None else structure
    far = _has_far_steps(model)
    if model.ir_version >= _STORED_IS_CONSTANT and all(map(is_sorted, _outermost(model))):
        return shape_inference.infer_shapes(structure, data_prop=not far)
    ordered = ModelProto.FromString(structure)
    _unlist_initializers(ordered)
    for body in _outermost(ordered):
        sort_by_dataflow(body)
    found = shape_inference.infer_shapes(ordered, data_prop=not far)
    for body, made in zip(_outermost(model), _outermost(found), strict=True):
        _put_back(made, body)
    return found


def _unlist_initializers(model: ModelProto) -> None:
    """Below IR version 4 initializers are constants although they are inputs: write them as later versions do."""
    if model.ir_version < _STORED_IS_CONSTANT:
        model.ir_version = _STORED_IS_CONSTANT
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in stored]
        del model.graph.input[:]
        model.graph.input.extend(inputs)


def _outermost(model: ModelProto) -> list[Body]:
    return [model.graph, *model.functions]


def _put_back(body: Body, like: Body) -> None:
    """Put the nodes of `body` into the order that they have in `like`, in nested bodies too."""
    position = {tuple(node.output): at for at, node in enumerate(like.node)}
    body.node.sort(key=lambda node: position[tuple(node.output)])
    for node, other in zip(body.node, like.node, strict=True):
        for attribute, wanted in zip(node.attribute, other.attribute, strict=True):
            if attribute.HasField("g"):
                _put_back(attribute.g, wanted.g)
            for made, graph in zip(attribute.graphs, wanted.graphs, strict=True):
                _put_back(made, graph)


def bodies(model: ModelProto) -> Iterator[Body]:
    """The main graph, the functions, and every body nested in them."""
    waiting = _outermost(model)
    while waiting:
        body = waiting.pop()
        yield body
        for node in body.node:
            for attribute in node.attribute or ():
                waiting += [attribute.g] if attribute.HasField("g") else attribute.graphs


def _has_far_steps(model: ModelProto) -> bool:
    """Whether a Slice has a stored step that leaves the range in which onnx counts."""
    steps = {
        node.input[4]
        for body in bodies(model)
        for node in body.node
        if node.op_type == "Slice" and len(node.input) > 4 and node.input[4]
    }
    return bool(steps) and any(abs(value) >= _FARTHEST for value in _stored(model, steps))


def _stored(model: ModelProto, names: set[str]) -> Iterator[int]:
    """The integers that `names` stand for in any body, where the model itself holds them."""
    for body in bodies(model):
        for tensor in body.initializer if isinstance(body, GraphProto) else ():
            if tensor.name in names and (tensor.raw_data or tensor.int64_data or tensor.int32_data):
                yield from numpy_helper.to_array(tensor).ravel().tolist()
        for node in body.node:
            if node.op_type == "Constant" and node.output[:1] and node.output[0] in names:
                for attribute in node.attribute:
                    yield from (attribute.i, *attribute.ints)
                    if attribute.HasField("t"):
                        yield from numpy_helper.to_array(attribute.t).ravel().tolist()
