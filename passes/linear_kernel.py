"""`Kernel`: a convolution or matrix product as numbers, in float64; what two in a row and two side by side are.

    y[o, p] = bias[o] + sum over i and n of weight[o, i, n] x[first channel of o's group + i, p stride + first + n step]

with zeros outside of x, for each spatial axis alike; a matrix product has none. A transposed one writes where the other
reads: x[i, q] times tap n goes to output position q stride + first + n step. Two kernels side by side on one value are
the kernel with the taps of both. Two in a row are one where either is pointwise and no shift meets the padding; a Pad
is one of a single tap.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import Graph, Tensor, number, numbers, text
from bnfold.passes.affine import Affine, Vector
from bnfold.passes.carriers import pad_value, padded_axes
from bnfold.passes.linear_ops import ABSORB_OUTPUT
from bnfold.passes.step import optional_constant_input
from bnfold.passes.weights import FloatWeight, read_weight


class Window(NamedTuple):
    """The window that a kernel reads along one spatial axis of length L, or that a transposed one writes to.

    Tap n at output position p reads p * stride + first + n * step. `reach`: the padding behind the axis, counted from
    the last tap at position 0, so that (L - 1 + reach) // stride + 1 positions come out. Of a transposed kernel it is
    what the last input position reaches over, so that (L - 1) * stride + reach + 1 positions come out.
    """

    taps: int = 1
    stride: int = 1
    step: int = 1
    first: int = 0
    reach: int = 0

    @property
    def last(self) -> int:
        """Where the last tap reads at position 0."""
        return self.first + (self.taps - 1) * self.step

    @property
    def pads(self) -> tuple[int, int]:
        """The zeros in front of the axis and behind it."""
        return -self.first, self.reach + self.last

    @property
    def cropped(self) -> tuple[int, int, int]:
        """Of a transposed kernel: what it leaves out in front of the axis and behind it, and what it adds there."""
        added = max(0, self.reach - self.last)
        return -self.first, self.last + added - self.reach, added

    def behind(self, single: "Window") -> "Window":
        """This window on what one of one tap and stride 1 makes."""
        return self._replace(first=self.first + single.first, reach=self.reach + single.reach)

    @property
    def is_pointwise(self) -> bool:
        """Whether each output position reads one position of the input, and none that is padding."""
        return self.taps == 1 and self.pads == (0, 0)


class Kernel(NamedTuple):
    """`weight`: [Cout, Cin / group, *taps]; `bias`: [Cout]; both float64. `windows`: one for each spatial axis.

    A large weight is computed anew each time that somebody looks: what is merged is held by the file it came from.
    `work`: the multiplications for each output position (of a transposed one: input position) that the operators it was
    read from do. `magnitude`: the largest weight of each output channel among those it was added up from, [Cout].
    """

    weight: Tensor
    bias: Vector
    group: int
    windows: tuple[Window, ...]
    work: int
    magnitude: Vector
    transposed: bool = False

    @property
    def channels(self) -> tuple[int, int]:
        """The channels it reads, and those it makes."""
        return self.weight.shape[1] * self.group, self.weight.shape[0]

    # ------------------------------------------------------------------ two in a row

    def then(self, outer: "Kernel") -> "Kernel":
        """This kernel followed by `outer`. Raises `Refused` where that is no kernel, or not exactly one."""
        if self.channels[1] != outer.channels[0] or len(self.windows) != len(outer.windows):
            raise Refused(Reason.WEIGHT_SHAPE, f"{self.channels[1]} channels meet {outer.channels[0]}")
        inner_is_single = all(
            window.taps == 1 and window.stride == 1 and (window.is_pointwise or not self.transposed)
            for window in self.windows
        )
        outer_is_pointwise = all(w.is_pointwise and (w.stride == 1 or not self.transposed) for w in outer.windows)
        if not inner_is_single and not outer_is_pointwise:
            raise Refused(Reason.KERNELS_DIFFER, "two kernels in a row, neither pointwise")
        if inner_is_single and self.bias.any():
            if outer.transposed and not outer_is_pointwise:
                raise Refused(Reason.SHIFT_BLOCKED, "not every output position receives every tap once")
            if not outer.transposed and any(pad for w in outer.windows for pad in w.pads):
                raise Refused(Reason.PADDED_BORDER, "a shift in front of it")
        group = math.gcd(self.group, outer.group)
        shift = outer.bias
        if self.bias.any():
            whole = _regrouped(outer.weight.exact(), outer.group, group)
            blocks = whole.reshape(group, outer.channels[1] // group, self.channels[1] // group, -1)
            shift = shift + np.einsum("gm,gomt->go", self.bias.reshape(group, -1), blocks, optimize=True).reshape(-1)
        pairs = zip(self.windows, outer.windows, strict=True)
        if inner_is_single:  # zeros that the one adds are as good as those of the other
            windows = tuple(theirs.behind(mine) for mine, theirs in pairs)
        else:
            windows = tuple(mine._replace(stride=mine.stride * theirs.stride) for mine, theirs in pairs)
        taps = tuple(window.taps for window in windows)
        shape = (outer.channels[1], self.channels[0] // group, *taps)
        weight = _lazy(shape, partial(_in_a_row, self.weight, outer.weight, self.group, outer.group))
        both = _kernel(weight, shift, group, windows, self.work + outer.work)
        return both._replace(transposed=self.transposed or outer.transposed)

    def mapped(self, affine: Affine, graph: Graph) -> "Kernel":
        """This kernel followed by a map of its channels, as the table of linear operators says. Raises `Refused`."""
        op_type = "Conv" if self.windows else "Gemm"
        node = NodeProto(op_type=op_type, input=["", "weight", "bias"])
        if not self.windows:
            node.attribute.add(name="transB", i=1, type=AttributeProto.INT)
        bias = Tensor.of(self.bias, _FLOAT64)
        (step,) = ABSORB_OUTPUT[op_type](node, 0, affine, graph.sketch({"weight": self.weight, "bias": bias}))
        new = {position: tensor for _, position, tensor in step.constants}
        return self._replace(
            weight=new.get(1, self.weight),
            bias=new.get(2, bias).exact(),
            work=self.work + self.channels[1],
            magnitude=self.magnitude * np.abs(affine.scale.reshape(-1)),
        )

    def negated(self) -> "Kernel":
        """This kernel times -1."""
        return self._replace(weight=self.weight.scaled(np.full(1, -1.0), 0), bias=-self.bias)

    # ------------------------------------------------------------------ two side by side

    def plus(self, other: "Kernel") -> "Kernel":
        """The sum of two kernels on one value.

        Raises `Refused` where no kernel reads what both read, or where the one that does would be more work.
        """
        if self.channels != other.channels or len(self.windows) != len(other.windows):
            raise Refused(Reason.KERNELS_DIFFER, f"channels {self.channels} and {other.channels}")
        group = math.gcd(self.group, other.group)
        windows = tuple(map(_union, self.windows, other.windows))
        shape = (self.channels[1], self.channels[0] // group, *(window.taps for window in windows))
        if math.prod(shape) > self.work + other.work:
            raise Refused(Reason.MORE_WORK, f"{math.prod(shape)} instead of {self.work} and {other.work}")
        parts = [(each.weight, each.group, tuple(map(_places, each.windows, windows))) for each in (self, other)]
        return Kernel(
            _lazy(shape, partial(_side_by_side, parts, shape, group)),
            self.bias + other.bias,
            group,
            windows,
            math.prod(shape),
            np.maximum(self.magnitude, other.magnitude),
            self.transposed or other.transposed,
        )


def _kernel(weight: Tensor, bias: Vector, group: int, windows: tuple[Window, ...], work: int) -> Kernel:
    return Kernel(weight, bias, group, windows, work, weight.magnitude(0))


# ---------------------------------------------------------------------- weights as numbers

Array = NDArray[np.float64]
_FLOAT64 = np.dtype(np.float64)


def _lazy(shape: tuple[int, ...], make: Callable[[], Array]) -> Tensor:
    return Tensor.made(shape, _FLOAT64, make)


def _in_a_row(inner: Tensor, outer: Tensor, inner_group: int, outer_group: int) -> Array:
    """The weight of two kernels in a row, of which the taps of one are 1: [Cout, Cin / group, *taps]."""
    group = math.gcd(inner_group, outer_group)
    first, second = _regrouped(inner.exact(), inner_group, group), _regrouped(outer.exact(), outer_group, group)
    between, made = first.shape[0] // group, second.shape[0] // group
    taps = max(first.shape[2:], second.shape[2:], key=math.prod)
    a = first.reshape(group, between, first.shape[1], -1)
    b = second.reshape(group, made, between, -1)
    if a.shape[3] == 1:
        weight: Array = np.einsum("gmi,gomt->goit", a[..., 0], b, optimize=True)
    else:
        weight = np.einsum("gmit,gom->goit", a, b[..., 0], optimize=True)
    whole: Array = weight.reshape(second.shape[0], first.shape[1], *taps)
    return whole


def _regrouped(weight: Array, group: int, fewer: int) -> Array:
    """A weight for `fewer` groups, with zeros where an output channel did not read: [Cout, Cin / fewer, *taps]."""
    if group == fewer:
        return weight
    whole = np.zeros((weight.shape[0], weight.shape[1] * (group // fewer), *weight.shape[2:]))
    _add(whole, fewer, weight, group, (slice(None),) * (weight.ndim - 2))
    return whole


def _side_by_side(parts: Sequence[tuple[Tensor, int, tuple[slice, ...]]], shape: tuple[int, ...], group: int) -> Array:
    """The sum of weights, of so many groups each and at such places of the spatial axes."""
    weight = np.zeros(shape)
    for part, own, places in parts:
        _add(weight, group, part.exact(), own, places)
    return weight


def _add(weight: Array, group: int, part: Array, own: int, places: tuple[slice, ...]) -> None:
    """Add the weights `part` of `own` groups to those of fewer groups, at `places` of the spatial axes."""
    fewer = own // group
    if fewer == 1:
        weight[(slice(None), slice(None), *places)] += part
        return
    rows = np.arange(weight.shape[0])
    blocks = (rows // (weight.shape[0] // own)) % fewer  # which part of its new group a row reads
    split = weight.reshape(weight.shape[0], fewer, part.shape[1], *weight.shape[2:])
    split[(rows, blocks, slice(None), *places)] += part


def _union(one: Window, other: Window) -> Window:
    """The window with the taps of both. Raises `Refused` where their output positions are not the same."""
    if one.stride != other.stride:
        raise Refused(Reason.KERNELS_DIFFER, f"strides {one.stride} and {other.stride}")
    if one.reach != other.reach:
        raise Refused(Reason.KERNELS_DIFFER, f"pads {one.pads} and {other.pads} for {one.taps} and {other.taps} taps")
    steps = [each.step for each in (one, other) if each.taps > 1]
    step = math.gcd(one.first - other.first, *steps) or 1
    first, last = min(one.first, other.first), max(one.last, other.last)
    return Window((last - first) // step + 1, one.stride, step, first, one.reach)


def _places(part: Window, whole: Window) -> slice:
    """Where the taps of `part` are among those of `whole`."""
    spacing = part.step // whole.step if part.taps > 1 else 1
    start = (part.first - whole.first) // whole.step
    return slice(start, start + (part.taps - 1) * spacing + 1, spacing)


# ---------------------------------------------------------------------- reading


def identity(channels: int, axes: int) -> Kernel:
    """The kernel that changes nothing: a Dirac kernel, each channel a group of its own where there are spatial axes."""
    if not axes:
        return _kernel(_lazy((channels, channels), partial(np.eye, channels)), np.zeros(channels), 1, (), 0)
    ones = Tensor.of(np.ones((channels, *[1] * (axes + 1))), _FLOAT64)
    return _kernel(ones, np.zeros(channels), channels, (Window(),) * axes, 0)


def read_conv(node: NodeProto, graph: Graph) -> Kernel:
    """A Conv with stored weights [Cout, Cin / group, *taps], or a ConvTranspose with [Cin, Cout / group, *taps].

    Raises `Refused`.
    """
    weight, transposed = stored_weight(node, 1, graph), node.op_type == "ConvTranspose"
    group = number(node, "group", 1)
    if len(weight.shape) < 3 or 0 in weight.shape or group < 1 or weight.shape[0] % group:
        raise Refused(Reason.WEIGHT_SHAPE, f"{node.input[1]!r} has shape {list(weight.shape)}, group {group}")
    windows = read_windows(node, weight.shape[2:], graph)
    values = turned(weight, group) if transposed else _lazy(weight.shape, weight.exact)
    bias = optional_constant_input(node, 2, graph, Reason.BIAS_NOT_CONSTANT)
    if bias is not None and bias.shape != values.shape[:1]:
        raise Refused(Reason.WEIGHT_SHAPE, f"bias {node.input[2]!r} has shape {list(bias.shape)}")
    shift = np.zeros(values.shape[0]) if bias is None else bias.exact()
    return _kernel(values, shift, group, windows, weight.size)._replace(transposed=transposed)


def turned(weight: Tensor, group: int) -> Tensor:
    """[C, D / group, *taps] as [D, C / group, *taps]: outputs first instead of inputs, or inputs instead of outputs."""
    first, second, *taps = weight.shape

    def make() -> Array:
        parts = weight.exact().reshape(group, first // group, second, *taps)
        return parts.swapaxes(1, 2).reshape(group * second, first // group, *taps)

    return _lazy((group * second, first // group, *taps), make)


def flipped(matrix: Tensor) -> Tensor:
    """A matrix with its axes in the other order."""
    return _lazy(matrix.shape[::-1], lambda: matrix.exact().T)


def read_windows(node: NodeProto, taps: tuple[int, ...], graph: Graph) -> tuple[Window, ...]:
    """The windows of a Conv, ConvTranspose or pooling with so many taps. Raises `Refused`."""
    ones, zeros = [1] * len(taps), [0] * len(taps)
    strides, steps = numbers(node, "strides", ones), numbers(node, "dilations", ones)
    stated, pads = numbers(node, "kernel_shape", taps), numbers(node, "pads", [*zeros, *zeros])
    extra = numbers(node, "output_padding", zeros)
    lengths = [len(strides), len(steps), len(extra), len(pads)]
    if [*lengths, tuple(stated)] != [*[len(taps)] * 3, 2 * len(taps), taps]:
        raise Refused(Reason.MALFORMED, f"the attributes of {graph.known_as(node)}")
    if min(*strides, *steps, 1) < 1 or min(*pads, *extra, 0) < 0:
        raise Refused(Reason.MALFORMED, f"the attributes of {graph.known_as(node)}")
    windows = []
    for axis, (count, stride, step) in enumerate(zip(taps, strides, steps, strict=True)):
        extent = (count - 1) * step
        given = pads[axis], pads[axis + len(taps)]
        if node.op_type == "ConvTranspose":
            before, behind = _cropping(node, given)
            windows.append(Window(count, stride, step, -before, extra[axis] + extent - before - behind))
        else:
            before, behind = _padding(node, extent, stride, given)
            windows.append(Window(count, stride, step, -before, behind - (extent - before)))
    return tuple(windows)


def read_average_pool(node: NodeProto, channels: int, graph: Graph) -> Kernel:
    """An AveragePool of `channels` that divides by the same number everywhere. Raises `Refused`."""
    taps = tuple(numbers(node, "kernel_shape"))
    windows = read_windows(node, taps, graph)
    padded = any(pad for window in windows for pad in window.pads)
    if not taps or number(node, "ceil_mode", 0) or (padded and not number(node, "count_include_pad", 0)):
        raise Refused(Reason.PADDED_BORDER, f"{graph.known_as(node)} averages over fewer positions along the border")
    weight = np.full((channels, 1, *taps), 1 / math.prod(taps))
    return _kernel(Tensor.of(weight, _FLOAT64), np.zeros(channels), channels, windows, weight.size)


def read_pad(node: NodeProto, channels: int, axes: int, graph: Graph) -> Kernel:
    """A Pad of `channels` with zeros along some of the spatial `axes`. Raises `Refused`."""
    amounts = padded_axes(node, graph)
    lengthened = {axis: pair for axis, pair in amounts.items() if any(pair)}
    if any(axis not in range(2, axes + 2) or min(pair) < 0 for axis, pair in lengthened.items()):
        raise Refused(Reason.KERNELS_DIFFER, f"{graph.known_as(node)} pads or cuts off more than positions")
    if text(node, "mode", "constant") != "constant" or pad_value(node, graph)[0] != 0:
        raise Refused(Reason.PADDED_BORDER, f"{graph.known_as(node)} pads with what is not zero")
    pads = [lengthened.get(axis, (0, 0)) for axis in range(2, axes + 2)]
    windows = tuple(Window(first=-before, reach=before + behind) for before, behind in pads)
    return identity(channels, axes)._replace(windows=windows)


def _padding(node: NodeProto, extent: int, stride: int, pads: tuple[int, int]) -> tuple[int, int]:
    """The zeros in front of one axis and behind it, whichever attribute says so.

    Raises `Refused` where they depend on the size of the axis: what the taps read would depend on it too.
    """
    how = text(node, "auto_pad", "NOTSET")
    if how == "NOTSET":
        return pads
    if how == "VALID":
        return 0, 0
    if how not in ("SAME_UPPER", "SAME_LOWER"):
        raise Refused(Reason.MALFORMED, f"auto_pad {how!r}")
    if stride > 1:
        raise Refused(Reason.KERNELS_DIFFER, f"{how} pads by the size of its input where the stride is {stride}")
    less, more = extent // 2, extent - extent // 2
    return (less, more) if how == "SAME_UPPER" else (more, less)


def _cropping(node: NodeProto, pads: tuple[int, int]) -> tuple[int, int]:
    """What a ConvTranspose leaves out in front of one axis and behind it. Raises `Refused` where that is not fixed."""
    how = text(node, "auto_pad", "NOTSET")
    if how not in ("NOTSET", "VALID") or numbers(node, "output_shape"):
        raise Refused(Reason.KERNELS_DIFFER, "what it leaves out depends on the size of its input")
    return pads if how == "NOTSET" else (0, 0)


def read_gemm(node: NodeProto, graph: Graph) -> Kernel:
    """A Gemm with stored B and a C that is one number per column. Raises `Refused`."""
    weight = stored_weight(node, 1, graph)
    if len(weight.shape) != 2:
        raise Refused(Reason.WEIGHT_SHAPE, f"{node.input[1]!r} has shape {list(weight.shape)}")
    matrix = _lazy(weight.shape, weight.exact) if number(node, "transB", 0) else flipped(weight)
    bias = optional_constant_input(node, 2, graph, Reason.BIAS_NOT_CONSTANT)
    shift = np.zeros(matrix.shape[0])
    if bias is not None:
        shift = number(node, "beta", 1.0) * one_per_channel(bias, matrix.shape[0])
    return _kernel(matrix.scaled(np.full(1, number(node, "alpha", 1.0)), 0), shift, 1, (), weight.size)


def read_matmul(node: NodeProto, graph: Graph) -> Kernel:
    """A MatMul with one stored matrix: of its columns where that is the right operand, else of its rows."""
    index = stored_operand(node, graph)
    weight = stored_weight(node, index, graph)
    if len(weight.shape) != 2:
        raise Refused(Reason.WEIGHT_SHAPE, f"{node.input[index]!r} has shape {list(weight.shape)}")
    matrix = _lazy(weight.shape, weight.exact) if index == 0 else flipped(weight)
    return _kernel(matrix, np.zeros(matrix.shape[0]), 1, (), weight.size)


def stored_operand(node: NodeProto, graph: Graph) -> int:
    """Which operand of a MatMul is stored. Raises `Refused` unless exactly one is."""
    found = [index for index, value in enumerate(node.input) if graph.constant(value) is not None]
    if len(found) != 1 or len(node.input) != 2:
        raise Refused(Reason.WEIGHT_NOT_CONSTANT, graph.known_as(node))
    return found[0]


def stored_weight(node: NodeProto, index: int, graph: Graph) -> Tensor:
    """The weight at input `index`, stored as floats. Raises `Refused`."""
    weight = read_weight(node, index, graph)
    if not isinstance(weight, FloatWeight):
        raise Refused(Reason.UNSUPPORTED_DTYPE, f"{node.input[index]!r} is quantized")
    return weight.tensor


def one_per_channel(bias: Tensor, channels: int) -> Vector:
    """A stored bias that is added along the last axis, as [channels]. Raises `Refused` where it is something else."""
    if bias.size not in (1, channels) or (bias.size > 1 and bias.shape[-1] != channels):
        raise Refused(Reason.NOT_BROADCASTABLE, f"a bias of shape {list(bias.shape)}")
    return np.broadcast_to(bias.exact().reshape(-1), (channels,)).copy()
