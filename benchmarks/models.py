"""The models that are measured, each made by a process of its own: python -m benchmarks.models NAME PATH.

Weights are random; what is measured does not depend on them. light_* are the graphs of the onnx wheel.
"""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


class Network:
    """A graph under construction; `value` is what the next layer reads."""

    def __init__(self, channels: int, size: int, axes: int = 2) -> None:
        self._random = np.random.default_rng(0)
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._shape, self._rank, self._axes = ["N", channels, *[size] * axes], 2 + axes, axes
        self.value, self.channels = "x", channels

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """A node with one output, which becomes `value`."""
        name = f"{op_type.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, inputs or [self.value], [f"{name}_y"], name=name, **attributes))
        self.value = f"{name}_y"
        return self.value

    def constant(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        """An initializer of uniform numbers."""
        name = f"constant{len(self._constants)}"
        values = self._random.uniform(low, high, shape).astype(np.float32)
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, channels: int, kernel: int, *, stride: int = 1, group: int = 1) -> None:
        """A Conv without bias that keeps the size, or divides it by `stride`."""
        kernels = [kernel] * self._axes
        limit = (3 / (self.channels // group * kernel**self._axes)) ** 0.5
        weight = self.constant(channels, self.channels // group, *kernels, low=-limit, high=limit)
        pads, strides = [kernel // 2] * 2 * self._axes, [stride] * self._axes
        self.node("Conv", self.value, weight, kernel_shape=kernels, pads=pads, strides=strides, group=group)
        self.channels = channels

    def conv_transpose(self, channels: int) -> None:
        """A ConvTranspose without bias that doubles the size."""
        limit = (3 / self.channels) ** 0.5
        weight = self.constant(self.channels, channels, *[2] * self._axes, low=-limit, high=limit)
        self.node("ConvTranspose", self.value, weight, kernel_shape=[2] * self._axes, strides=[2] * self._axes)
        self.channels = channels

    def layer(self, channels: int, kernel: int, *, stride: int = 1, group: int = 1) -> None:
        """Conv, BatchNormalization, Relu."""
        self.conv(channels, kernel, stride=stride, group=group)
        self.batch_norm()
        self.node("Relu")

    def concat(self, other: str, channels: int) -> None:
        """`value` and another one, of so many channels."""
        self.node("Concat", other, self.value, axis=1)
        self.channels += channels

    def batch_norm(self) -> None:
        """A BatchNormalization in inference mode."""
        scale, variance = (self.constant(self.channels, low=0.5, high=1.5) for _ in range(2))
        bias, mean = (self.constant(self.channels) for _ in range(2))
        self.node("BatchNormalization", self.value, scale, bias, mean, variance)

    def parts(self, *ends: int) -> list[str]:
        """Slices of the channels of `value`, as PyTorch exports a split: up to each of `ends`, and the rest."""
        axis, made = self.integers(1), []
        for start, end in itertools.pairwise((0, *ends, self.channels)):
            made.append(self.node("Slice", self.value, self.integers(start), self.integers(end), axis))
            self.value = self._nodes[-1].input[0]
        return made

    def number(self, value: float) -> str:
        """An initializer of one number and no axes."""
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def integers(self, *numbers: int) -> str:
        """An initializer of integers."""
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    def scales(self, spatial: float) -> str:
        """The scales of a Resize that leaves batch and channels."""
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.float32([1, 1, *[spatial] * self._axes]), name))
        return name

    def gemm(self, features: int) -> None:
        """A Gemm with transB, as PyTorch exports a Linear."""
        limit = (3 / self.channels) ** 0.5
        self._rank = 2
        weight, bias = self.constant(features, self.channels, low=-limit, high=limit), self.constant(features)
        self.node("Gemm", self.value, weight, bias, transB=1)
        self.channels = features

    def model(self, *, flat: bool = False) -> ModelProto:
        """The finished model."""
        shape = self._shape[:2] if flat else self._shape
        graph = helper.make_graph(
            self._nodes,
            "benchmark",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(self.value, TensorProto.FLOAT, [None] * self._rank)],
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(nodes: int, *, bare: bool = False) -> ModelProto:
    """Conv (4 to 4 channels, 1 x 1), BatchNormalization, Relu, and again.

    `bare` leaves out the attributes that a Conv can do without, which exporters always write.
    """
    network = Network(4, 8)
    for _ in range(nodes // 3):
        if bare:
            network.node("Conv", network.value, network.constant(4, 4, 1, 1))
        else:
            network.conv(4, 1)
        network.batch_norm()
        network.node("Relu")
    return network.model()


def large(convolutions: int) -> ModelProto:
    """Weights of 10.5 MB each, every one of them scaled."""
    network = Network(540, 8)
    for _ in range(convolutions):
        network.conv(540, 3)
        network.batch_norm()
    return network.model()


def mobilenet() -> ModelProto:
    """MobileNetV2: (expansion, channels, repetitions, stride), as in the paper's table 2."""
    network = Network(3, 224)

    def layer(channels: int, kernel: int, *, stride: int = 1, group: int = 1, activation: bool = True) -> None:
        network.conv(channels, kernel, stride=stride, group=group)
        network.batch_norm()
        if activation:
            network.node("Relu")

    layer(32, 3, stride=2)
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, channels, repetitions, first_stride in rows:
        for i in range(repetitions):
            before, stride = (network.value, network.channels), first_stride if i == 0 else 1
            hidden = expansion * network.channels
            if expansion > 1:
                layer(hidden, 1)
            layer(hidden, 3, stride=stride, group=hidden)
            layer(channels, 1, activation=False)
            if stride == 1 and before[1] == channels:
                network.node("Add", before[0], network.value)
    layer(1280, 1)
    network.node("GlobalAveragePool")
    network.node("Flatten")
    network.gemm(1000)
    return network.model()


def ibn_resnet() -> ModelProto:
    """IBN-ResNet-50: the first normalization of each bottleneck normalizes half of the channels per instance."""
    network = Network(3, 224)

    def bottleneck(channels: int, stride: int, *, instance: bool, first: bool) -> None:
        start, width = network.value, network.channels
        network.conv(channels, 1)
        if instance:
            half = channels // 2
            left, right = network.parts(half)
            scale, bias = network.constant(half, low=0.5, high=1.5), network.constant(half)
            normalized = network.node("InstanceNormalization", left, scale, bias)
            network.value, network.channels = right, half
            network.batch_norm()
            network.node("Concat", normalized, network.value, axis=1)
            network.channels = channels
        else:
            network.batch_norm()
        network.node("Relu")
        network.conv(channels, 3, stride=stride)
        network.batch_norm()
        network.node("Relu")
        network.conv(4 * channels, 1)
        network.batch_norm()
        end = network.value
        if first:
            network.value, network.channels = start, width
            network.conv(4 * channels, 1, stride=stride)
            network.batch_norm()
        network.node("Add", end, network.value if first else start)
        network.node("Relu")
        network.channels = 4 * channels

    network.conv(64, 7, stride=2)
    network.batch_norm()
    network.node("Relu")
    network.node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for channels, repetitions, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(repetitions):
            bottleneck(channels, stride if i == 0 else 1, instance=channels < 512, first=i == 0)
    network.node("GlobalAveragePool")
    network.node("Flatten")
    network.gemm(1000)
    return network.model()


def u_net() -> ModelProto:
    """U-Net as in the paper with half of its channels, padded, at 128 x 128; upwards by ConvTranspose."""
    network, kept = Network(3, 128), []
    for channels in (32, 64, 128, 256):
        network.layer(channels, 3)
        network.layer(channels, 3)
        kept.append((network.value, channels))
        network.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    network.layer(512, 3)
    network.layer(512, 3)
    for value, channels in reversed(kept):
        network.conv_transpose(channels)
        network.batch_norm()
        network.node("Relu")
        network.concat(value, channels)
        network.layer(channels, 3)
        network.layer(channels, 3)
    network.conv(2, 1)
    return network.model()


def wide() -> ModelProto:
    """Four fully connected layers of 4,096: 67 million weights, each used once."""
    network = Network(4096, 1)
    for _ in range(4):
        network.gemm(4096)
        network.batch_norm()
        network.node("Relu")
    network.gemm(10)
    return network.model(flat=True)


def segmentation() -> ModelProto:
    """An encoder of depth-separable layers with stride 8, and its scores resized to 256 x 256."""
    network = Network(3, 256)
    network.layer(32, 3, stride=2)
    for channels, stride in ((64, 2), (64, 1), (128, 2), *[(128, 1)] * 6):
        network.layer(network.channels, 3, stride=stride, group=network.channels)
        network.layer(channels, 1)
    network.layer(128, 3)
    network.conv(21, 1)
    scales = network.scales(8.0)
    network.node("Resize", network.value, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    return network.model()


def speech() -> ModelProto:
    """One-dimensional separable convolutions over 80 bands and 400 frames, as QuartzNet's, with residuals."""
    network = Network(80, 400, axes=1)
    network.layer(256, 33, stride=2)
    for kernel in (33, 39, 51):
        start = network.value
        for _ in range(5):
            network.conv(256, kernel, group=256)
            network.layer(256, 1)
        network.node("Add", start, network.value)
    network.layer(512, 1)
    network.conv(29, 1)
    return network.model()


def conformer() -> ModelProto:
    """The encoder of Conformer-S over 80 bands and 400 frames: 16 blocks of width 144 (arXiv 2005.08100, table 1).

    Without positions, and with one-dimensional convolutions for the time reduction.
    """
    network = Network(80, 400, axes=1)
    width, heads = 144, 4

    def linear(start: str, inputs: int, outputs: int) -> str:
        limit = (3 / inputs) ** 0.5
        product = network.node("MatMul", start, network.constant(inputs, outputs, low=-limit, high=limit))
        return network.node("Add", product, network.constant(outputs))

    def normalized(start: str) -> str:
        scale, bias = network.constant(width, low=0.5, high=1.5), network.constant(width)
        return network.node("LayerNormalization", start, scale, bias)

    def swish(start: str) -> str:
        return network.node("Mul", start, network.node("Sigmoid", start))

    def half_step(start: str) -> str:
        inner = linear(swish(linear(normalized(start), width, 4 * width)), 4 * width, width)
        return network.node("Add", start, network.node("Mul", inner, network.number(0.5)))

    def attention(start: str) -> str:
        plain, shape = normalized(start), network.integers(0, 0, heads, width // heads)
        queries, keys, values = (network.node("Reshape", linear(plain, width, width), shape) for _ in range(3))
        queries, values = (network.node("Transpose", each, perm=[0, 2, 1, 3]) for each in (queries, values))
        scores = network.node("MatMul", queries, network.node("Transpose", keys, perm=[0, 2, 3, 1]))
        shares = network.node("Softmax", network.node("Div", scores, network.number((width / heads) ** 0.5)), axis=-1)
        mixed = network.node("Transpose", network.node("MatMul", shares, values), perm=[0, 2, 1, 3])
        flat = network.node("Reshape", mixed, network.integers(0, 0, width))
        return network.node("Add", start, linear(flat, width, width))

    def convolution(start: str) -> str:
        network.node("Transpose", normalized(start), perm=[0, 2, 1])
        network.conv(2 * width, 1)
        left, right = network.parts(width)
        network.node("Mul", left, network.node("Sigmoid", right))
        network.channels = width
        network.conv(width, 31, group=width)
        network.batch_norm()
        swish(network.value)
        network.conv(width, 1)
        return network.node("Add", start, network.node("Transpose", perm=[0, 2, 1]))

    for _ in range(2):
        network.conv(width, 3, stride=2)
        network.node("Relu")
    network.node("Transpose", perm=[0, 2, 1])
    for _ in range(16):
        network.value = normalized(half_step(convolution(attention(half_step(network.value)))))
    return network.model()


def perceptron() -> ModelProto:
    """Gemm, BatchNormalization, Relu: onnxruntime does not fuse these."""
    network = Network(256, 1)
    for _ in range(12):
        network.gemm(256)
        network.batch_norm()
        network.node("Relu")
    return network.model(flat=True)


def preactivation() -> ModelProto:
    """BatchNormalization right before Conv without padding, behind a residual Add."""
    network = Network(64, 28)
    for _ in range(8):
        before = network.value
        network.batch_norm()
        network.conv(64, 1)
        network.node("Relu")
        network.conv(64, 3)
        network.node("Add", before, network.value)
    return network.model()


def concatenation() -> ModelProto:
    """Two branches of Conv, Concat, BatchNormalization, Relu."""
    network = Network(64, 28)
    for _ in range(6):
        start = network.value
        network.conv(32, 3)
        left = network.value
        network.value, network.channels = start, 64
        network.conv(32, 1)
        network.node("Concat", left, network.value, axis=1)
        network.channels = 64
        network.batch_norm()
        network.node("Relu")
    return network.model()


def pooled() -> ModelProto:
    """Conv, AveragePool, BatchNormalization, Relu."""
    network = Network(32, 112)
    for _ in range(4):
        network.conv(32, 3)
        network.node("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
        network.batch_norm()
        network.node("Relu")
    return network.model()


def plain() -> ModelProto:
    """Conv, BatchNormalization, Relu: what onnxruntime fuses itself."""
    network = Network(64, 28)
    for _ in range(8):
        network.conv(64, 3)
        network.batch_norm()
        network.node("Relu")
    return network.model()


def light(name: str) -> ModelProto:
    """A graph of the onnx wheel, with random weights."""
    from tests.light_graphs import light as with_weights

    return with_weights(name)


MODELS: dict[str, Callable[[], ModelProto]] = {
    "chain of 1,000 nodes": partial(chain, 1000),
    "chain of 5,000 nodes": partial(chain, 5000),
    "chain of 20,000 nodes": partial(chain, 20000),
    "ResNet-50": partial(light, "resnet50"),
    "IBN-ResNet-50": ibn_resnet,
    "DenseNet-121": partial(light, "densenet121"),
    "MobileNetV2": mobilenet,
    "U-Net": u_net,
    "wide": wide,
    "segmentation": segmentation,
    "speech": speech,
    "Conformer": conformer,
    "1 GB inline": partial(large, 100),
    "3 GB external": partial(large, 300),
    "3 GB in 300 files": partial(large, 300),
    "Conv": plain,
    "Gemm": perceptron,
    "pre-activation": preactivation,
    "Concat": concatenation,
    "Conv, pool": pooled,
}


def save(name: str, path: Path) -> None:
    """Make the model and write it, with its weights where the name says."""
    model = MODELS[name]()
    if name == "3 GB external":
        onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.data")
    elif name == "3 GB in 300 files":
        onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=1 << 20)
    else:
        onnx.save(model, path)


if __name__ == "__main__":
    save(sys.argv[1], Path(sys.argv[2]))
