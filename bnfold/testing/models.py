"""Small models as one line of text."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TypeProto, helper, numpy_helper, parser

from bnfold.equivalence.structure.signature import every_node

Array = NDArray[Any]
NOTHING: Mapping[str, Any] = MappingProxyType({})


def numbers(*shape: int, seed: int = 0, low: float = -1.5, high: float = 1.5, dtype: Any = np.float32) -> Array:
    """Seeded numbers of this shape that all differ, none near zero, so that no factor hides another."""
    made = np.random.default_rng([seed, *shape]).uniform(low, high, shape)
    return (made + np.copysign(0.25, made)).astype(dtype)


def build(
    text: str,
    *,
    inputs: Mapping[str, str],
    constants: Mapping[str, Array | tuple[int, ...]] = NOTHING,
    outputs: Sequence[str] = ("y",),
    opset: Any = 18,
    ir: Any = 9,
) -> ModelProto:
    """The model of a text: nodes in the syntax of `onnx.parser`, ``c = Conv(x, w, b) y = Relu(c)``.

    A name that no node makes is an input where `inputs` has a type for it (``{"x": "float[N,3,6,7]"}``), and an
    initializer where `constants` has an array, or a shape, which `numbers` fills in float32. Below IR version 4
    initializers are listed as inputs, as was the rule then. Raises KeyError for a name that neither has.
    """
    body = parser.parse_graph(f"g () => () {{ {text} }}")
    for name in _free(body):
        if name in inputs:
            typed = parser.parse_graph(f"g ({inputs[name]} {name}) => () {{ }}")
            body.input.append(typed.input[0])
        elif name in constants:
            constant = constants[name]
            values = numbers(*constant) if isinstance(constant, tuple) else constant
            body.initializer.append(numpy_helper.from_array(values, name))
        else:
            raise KeyError(f"{name!r} is made by no node, and neither inputs nor constants have it")
    if ir < 4:
        for tensor in body.initializer:
            body.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    domains = sorted({node.domain for node in every_node(body)} - {""})
    versions = {"": opset, **dict.fromkeys(domains, 1)}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(body, opset_imports=opsets, ir_version=ir)
    for name in outputs:
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
    inferred = {value.name: value.type for value in onnx.shape_inference.infer_shapes(model).graph.output}
    for tensor in body.initializer:
        inferred[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    for value in model.graph.output:
        found = inferred[value.name]
        value.type.CopyFrom(found if found.tensor_type.elem_type else TypeProto(tensor_type={"elem_type": 1}))
    return model


def _free(body: GraphProto, outer: frozenset[str] = frozenset()) -> list[str]:
    """The names that nothing in `body` or around it makes, in order of first use."""
    made = outer | {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    made |= {name for node in body.node for name in node.output}
    free: dict[str, None] = {}
    for node in body.node:
        free.update(dict.fromkeys(name for name in node.input if name and name not in made))
        for attribute in node.attribute:
            if attribute.HasField("g"):
                free.update(dict.fromkeys(_free(attribute.g, made)))
    free.update(dict.fromkeys(value.name for value in body.output if value.name not in made))
    return list(free)
