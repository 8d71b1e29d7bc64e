"""The operators of the float64 oracle that PyTorch computes, in float64: convolutions, pooling, activations.

Where it is not installed, onnx.reference computes them.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from tests.oracle_operators import Array, Call, NotHere, operator, pads_of, pooled_window, window_of


def tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))


_UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Erf": torch.erf,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "Softsign": lambda x: x / (1 + x.abs()),
    "Mish": lambda x: x * torch.tanh(torch.logaddexp(x, torch.zeros_like(x))),
    "HardSwish": lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
}


@operator(*_UNARY)
def unary(call: Call, x: Array) -> Array:
    return _UNARY[call.operator](tensor(x)).numpy()


_WITH_ATTRIBUTES: dict[str, Callable[[torch.Tensor, Callable[..., float]], torch.Tensor]] = {
    "LeakyRelu": lambda x, a: torch.where(x < 0, a("alpha", 0.01) * x, x),
    "Elu": lambda x, a: torch.where(x < 0, a("alpha", 1.0) * torch.expm1(x), x),
    "Celu": lambda x, a: torch.where(x < 0, a("alpha", 1.0) * torch.expm1(x / a("alpha", 1.0)), x),
    "Selu": lambda x, a: (
        a("gamma", 1.0507010221481323) * torch.where(x <= 0, a("alpha", 1.6732631921768188) * torch.expm1(x), x)
    ),
    "HardSigmoid": lambda x, a: torch.clamp(a("alpha", float(np.float32(0.2))) * x + a("beta", 0.5), 0, 1),
    "ThresholdedRelu": lambda x, a: torch.where(x > a("alpha", 1.0), x, torch.zeros_like(x)),
    "Swish": lambda x, a: x * torch.sigmoid(a("alpha", 1.0) * x),
}


@operator(*_WITH_ATTRIBUTES)
def parametrized(call: Call, x: Array) -> Array:
    return _WITH_ATTRIBUTES[call.operator](tensor(x), call.get).numpy()


@operator("Gelu")
def gelu(call: Call, x: Array) -> Array:
    return functional.gelu(tensor(x), approximate=call.get("approximate", b"none").decode()).numpy()


@operator("Softmax", "LogSoftmax")
def softmax(call: Call, x: Array) -> Array:
    function = torch.softmax if call.operator == "Softmax" else torch.log_softmax
    if call.opset >= 13:
        return function(tensor(x), call.get("axis", -1)).numpy()
    axis = call.get("axis", 1) % max(x.ndim, 1)
    rows = math.prod(x.shape[:axis])
    return function(tensor(x.reshape(rows, -1)), 1).numpy().reshape(x.shape)


_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _torch_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """torch lists them from the last dim to the first."""
    return [amount for pair in reversed(pads) for amount in pair]


@operator("Conv")
def conv(call: Call, x: Array, weight: Array, bias: Array | None = None) -> Array:
    if x.ndim - 2 not in _CONV:
        raise NotHere
    window = window_of(call, weight.shape[2:])
    padded = functional.pad(tensor(x), _torch_pads(pads_of(call, window, x.shape[2:])))
    return _CONV[x.ndim - 2](
        padded,
        tensor(weight),
        None if bias is None else tensor(bias),
        stride=window.stride,
        dilation=window.dilation,
        groups=call.get("group", 1),
    ).numpy()


@operator("MaxPool")
def max_pool(call: Call, x: Array) -> Array:
    if x.ndim - 2 not in _CONV or x.dtype.kind != "f" or call.wants(1):
        raise NotHere
    window, _, beyond = pooled_window(call, x)
    pool = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[x.ndim - 2]
    padded = functional.pad(tensor(x), _torch_pads(beyond), value=-math.inf)
    return pool(padded, window.kernel, stride=window.stride, dilation=window.dilation).numpy()


@operator("AveragePool")
def average_pool(call: Call, x: Array) -> Array:
    """Sums by a convolution with ones, divided by the number of elements that each window may count."""
    if x.ndim - 2 not in _CONV:
        raise NotHere
    window, pads, beyond = pooled_window(call, x)
    ones = torch.ones((1, 1, *window.kernel), dtype=torch.float64)

    def sums(values: torch.Tensor, around: Sequence[tuple[int, int]]) -> torch.Tensor:
        padded = functional.pad(values, _torch_pads(around))
        return _CONV[x.ndim - 2](padded, ones, stride=window.stride, dilation=window.dilation)

    counted = torch.ones((1, 1, *x.shape[2:]), dtype=torch.float64)
    rest = beyond
    if call.get("count_include_pad", 0):
        counted = functional.pad(counted, _torch_pads(pads), value=1.0)
        rest = tuple((0, end - after) for (_, end), (_, after) in zip(beyond, pads, strict=True))
    y = sums(tensor(x.reshape(-1, 1, *x.shape[2:])), beyond) / sums(counted, rest)
    return y.numpy().reshape(*x.shape[:2], *y.shape[2:])
