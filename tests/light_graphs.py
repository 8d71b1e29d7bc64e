"""The real graphs that the onnx wheel ships, with weights in which a wrong fold shows. Needs no PyTorch."""

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def light(name: str, *, seed: int | None = 0) -> ModelProto:
    """`light_{name}.onnx` with random weights in place of its constants; `seed=None` leaves it as it is shipped.

    As shipped every weight is a ConstantOfShape with one number, so all channels are alike and a Softmax at the end
    gives 1/1000 everywhere: a wrong fold would show in nothing. With a seed, weights keep the size of what flows
    through, gammas have both signs, variances lie in [0.5, 2], and a Softmax at the end is cut off.
    """
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    if seed is None:
        return model
    generator = np.random.default_rng(seed)
    graph = model.graph
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    weights = {node.output[0]: node for node in graph.node if node.op_type == "ConstantOfShape"}
    variances = {node.input[4] for node in graph.node if node.op_type == "BatchNormalization"}
    scales = {node.input[1]: node.output[0] for node in graph.node if node.op_type == "BatchNormalization"}
    summed = {name for node in graph.node if node.op_type == "Sum" for name in node.input}
    for value, node in weights.items():
        shape = tuple(int(size) for size in numpy_helper.to_array(shapes[node.input[0]]))
        array = generator.normal(size=shape) * math.sqrt(1.5 / math.prod(shape[1:])) if len(shape) > 1 else None
        if value in variances:
            array = 2 ** generator.uniform(-1, 1, shape)
        elif value in scales:
            array = generator.uniform(0.5, 1.5, shape) * np.where(generator.random(shape) < 0.25, -1, 1)
            array /= 4 if scales[value] in summed else 1  # or residual branches would grow a thousandfold
        elif array is None:
            array = generator.normal(size=shape) / 5
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), value))
        graph.node.remove(node)
        if model.ir_version < 4:
            graph.input.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, shape))
    used = {name for node in graph.node for name in node.input}
    for values in (graph.initializer, graph.input):
        for value in [value for value in values if value.name not in used]:
            values.remove(value)
    last = graph.node[-1]
    if last.op_type == "Softmax":
        graph.output[0].name = last.input[0]
        graph.node.remove(last)
    return model
