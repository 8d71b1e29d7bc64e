"""Right folds and wrong ones, made by a folder of the tests' own: it shares no line with bnfold.

`bases()` are models with normalizations to fold. `Folds(base)` finds what can be folded in one; `right()` and `wrong()`
build candidates. A wrong one is only returned where the stored parameters differ from the right ones by more than
rounding, so that each is wrong indeed.
"""

import functools
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests import architectures

Float = NDArray[np.float64]
MODELS = Path(__file__).parents[1] / "models"
UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11}


@dataclass(frozen=True)
class Site:
    """One normalization behind an operator that can take it up; parameters in float64 as stored."""

    operator: NodeProto
    normalization: NodeProto
    weight: Float
    bias: Float | None
    gamma: Float
    beta: Float
    mean: Float
    variance: Float
    epsilon: float
    dtype: np.dtype

    @property
    def factors(self) -> tuple[float, float]:
        """alpha and beta of a Gemm, which multiply what is stored; 1 for other operators."""
        alpha, beta = (
            next((a.f for a in self.operator.attribute if a.name == name), 1.0) for name in ("alpha", "beta")
        )
        return (alpha, beta) if self.operator.op_type == "Gemm" else (1.0, 1.0)

    @property
    def group(self) -> int:
        return attribute(self.operator, "group", 1)

    def scaled(self, k: Float, *, order: str = "right") -> Float:
        """The weight times k per output channel."""
        if self.operator.op_type == "Conv":
            return self.weight * k.reshape(-1, *[1] * (self.weight.ndim - 1))
        if self.operator.op_type == "Gemm":
            return self.weight * (k[:, None] if attribute(self.operator, "transB", 0) else k[None, :])
        per_group = k.reshape(self.group, -1) if order == "right" else k.reshape(-1, self.group).T
        rows = self.weight.shape[0] // self.group
        shape = (1, *[1] * (self.weight.ndim - 2))
        grouped = self.weight.reshape(self.group, rows, *self.weight.shape[1:])
        return (grouped * per_group.reshape(self.group, *shape[:1], -1, *shape[1:])).reshape(self.weight.shape)

    def parameters(self, **changed: object) -> tuple[Float, Float]:
        """W' and b' of a fold with these statistics."""
        values = {
            name: changed.get(name, getattr(self, name)) for name in ("gamma", "beta", "mean", "variance", "epsilon")
        }
        k = values["gamma"] / np.sqrt(values["variance"] + values["epsilon"])
        shift = values["beta"] - values["mean"] * k
        return self.scaled(k), shift / self.factors[1] + (0 if self.bias is None else k * self.bias)


def attribute(node: NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


class Folds:
    """What can be folded in one model."""

    def __init__(self, base: ModelProto) -> None:
        self.base = base
        graph = base.graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
            elif node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        producers = {name: node for node in graph.node for name in node.output}
        reads = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
        self.sites: list[Site] = []
        for node in graph.node:
            source = producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
            if (
                source is None
                or source.op_type not in {"Conv", "ConvTranspose", "Gemm"}
                or reads.count(node.input[0]) != 1
                or any(name not in self.constants for name in (*source.input[1:], *node.input[1:]) if name)
            ):
                continue
            weight = self.constants[source.input[1]]
            bias = self.constants[source.input[2]] if len(source.input) > 2 and source.input[2] else None
            gamma, beta, mean, variance = (self.constants[name].astype(np.float64) for name in node.input[1:5])
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            wide = None if bias is None else bias.astype(np.float64)
            self.sites.append(
                Site(source, node, weight.astype(np.float64), wide, gamma, beta, mean, variance, epsilon, weight.dtype)
            )

    def right(self, chosen: Collection[int]) -> ModelProto:
        """The model with these sites folded."""
        return self._build({number: self.sites[number].parameters() for number in chosen})

    def wrong(self, number: int, bug: str) -> ModelProto | None:
        """Every site folded, this one with a bug; None where the bug makes no difference that can be stored."""
        site = self.sites[number]
        right = site.parameters()
        made = BUGS[bug](site)
        if made is None or all(_same(a, b, site.dtype) for a, b in zip(made, right, strict=True)):
            return None
        everything = {index: other.parameters() for index, other in enumerate(self.sites)}
        return self._build(everything | {number: made})

    def wrong_ones(self, per_kind: int) -> Iterator[tuple[str, int, ModelProto]]:
        """What is wrong, at which site, and the model: each kind at the first `per_kind` sites with room for it."""
        for bug in BUGS:
            made = ((bug, site, self.wrong(site, bug)) for site in range(len(self.sites)))
            found = ((bug, site, model) for bug, site, model in made if model is not None)
            yield from itertools.islice(found, per_kind)

    def _build(self, parameters: dict[int, tuple[Float, Float]]) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(self.base)
        gone = {self.sites[number].normalization.output[0] for number in parameters}
        by_output = {self.sites[number].operator.output[0]: number for number in parameters}
        nodes = [node for node in model.graph.node if node.output[0] not in gone]
        for node in nodes:
            number = by_output.get(node.output[0])
            if number is None:
                continue
            site = self.sites[number]
            weight, bias = parameters[number]
            names = [f"{node.output[0]}/folded_weight", f"{node.output[0]}/folded_bias"]
            for name, value in zip(names, (weight, bias), strict=True):
                with np.errstate(over="ignore"):
                    model.graph.initializer.append(numpy_helper.from_array(value.astype(site.dtype), name))
                if model.ir_version < 4:  # which lists initializers among the inputs
                    kind = helper.np_dtype_to_tensor_dtype(site.dtype)
                    model.graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
            del node.input[1:]
            node.input.extend(names)
            node.output[0] = site.normalization.output[0]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return model


def _same(made: Float, right: Float, dtype: np.dtype) -> bool:
    with np.errstate(all="ignore"):
        a, b = (array.astype(dtype).astype(np.float64) for array in (made, right))
        return bool(np.all(np.abs(a - b) <= 8 * UNIT[dtype] * np.abs(b)))


# --- bugs in the parameters: a site to (W', b'), or None where it does not apply -------------------------------------


def _bias_off(site: Site) -> tuple[Float, Float]:
    weight, bias = site.parameters()
    bias = bias.copy()
    bias[np.abs(bias).argmax()] *= 1.01
    return weight, bias


def _weight_off(site: Site) -> tuple[Float, Float]:
    weight, bias = site.parameters()
    weight = weight.copy()
    weight.flat[np.abs(weight).argmax()] *= 1.01
    return weight, bias


def _bias_swapped(site: Site) -> tuple[Float, Float] | None:
    weight, bias = site.parameters()
    order = np.arange(len(bias))
    order[[0, -1]] = order[[-1, 0]]
    return weight, bias[order]


def _scale_swapped(site: Site) -> tuple[Float, Float]:
    gamma = site.gamma.copy()
    gamma[[0, -1]] = gamma[[-1, 0]]
    return site.parameters(gamma=gamma)[0], site.parameters()[1]


def _epsilon_outside(site: Site) -> tuple[Float, Float]:
    return site.parameters(variance=(np.sqrt(site.variance) + site.epsilon) ** 2, epsilon=0.0)


def _bias_not_scaled(site: Site) -> tuple[Float, Float] | None:
    if site.bias is None:
        return None
    weight, bias = site.parameters()
    k = site.gamma / np.sqrt(site.variance + site.epsilon)
    return weight, bias - k * site.bias + site.bias


def _beta_applied_twice(site: Site) -> tuple[Float, Float] | None:
    """C as it counts, not as it is stored: the Gemm multiplies it by its beta once more."""
    if site.factors[1] == 1:
        return None
    weight, bias = site.parameters()
    return weight, bias * site.factors[1]


def _group_axis(site: Site) -> tuple[Float, Float] | None:
    if site.operator.op_type != "ConvTranspose" or site.group == 1:
        return None
    k = site.gamma / np.sqrt(site.variance + site.epsilon)
    return site.scaled(k, order="wrong"), site.parameters()[1]


def _square_axis(site: Site) -> tuple[Float, Float] | None:
    """The scale along the input channels, which only a weight with as many inputs as outputs allows."""
    if site.weight.shape[0] != site.weight.shape[1]:
        return None
    k = site.gamma / np.sqrt(site.variance + site.epsilon)
    turned = np.swapaxes(site.scaled(k) / np.where(site.weight == 0, 1, site.weight), 0, 1)
    return site.weight * turned, site.parameters()[1]


def _coarse(site: Site) -> tuple[Float, Float]:
    """Rounded as bfloat16 rounds: 8 bits of mantissa."""
    weight, bias = site.parameters()
    mantissa, exponent = np.frexp(weight)
    return np.ldexp(np.round(mantissa * 256) / 256, exponent), bias


def _truncated(site: Site) -> tuple[Float, Float]:
    """Sixteen units in the last place lost toward zero."""
    weight, bias = site.parameters()
    return weight * (1 - 32 * UNIT[site.dtype]), bias


def _poisoned(site: Site, value: float) -> tuple[Float, Float]:
    weight, bias = site.parameters()
    bias = bias.copy()
    bias[-1] = value
    return weight, bias


def _flipped(site: Site) -> tuple[Float, Float] | None:
    if site.weight.ndim < 3 or site.weight.shape[-1] == 1:
        return None
    weight, bias = site.parameters()
    return weight[..., ::-1], bias


BUGS: dict[str, Callable[[Site], tuple[Float, Float] | None]] = {
    "bias of one channel off by 1 %": _bias_off,
    "one weight off by 1 %": _weight_off,
    "two channels swapped in the bias": _bias_swapped,
    "two channels swapped in the scale": _scale_swapped,
    "epsilon forgotten": lambda site: site.parameters(epsilon=0.0),
    "epsilon outside the root": _epsilon_outside,
    "epsilon of another framework": lambda site: site.parameters(epsilon=1e-3),
    "unbiased variance": lambda site: site.parameters(variance=site.variance * 128 / 127),
    "gamma for beta": lambda site: site.parameters(beta=site.gamma),
    "beta dropped": lambda site: site.parameters(beta=np.zeros_like(site.beta)),
    "mean dropped": lambda site: site.parameters(mean=np.zeros_like(site.mean)),
    "mean added": lambda site: site.parameters(mean=-site.mean),
    "stale statistics": lambda site: site.parameters(mean=0.9 * site.mean, variance=0.9 * site.variance + 0.1),
    "old bias not scaled": _bias_not_scaled,
    "beta of Gemm applied twice": _beta_applied_twice,
    "group axis wrong": _group_axis,
    "input channels scaled": _square_axis,
    "weights rounded to 8 bits": _coarse,
    "weights truncated": _truncated,
    "kernel flipped": _flipped,
    "overflow to infinity": lambda site: _poisoned(site, np.inf),
    "NaN": lambda site: _poisoned(site, np.nan),
}


# --- bugs in the structure: a right candidate to a wrong one ---------------------------------------------------------


def batch_coupled(candidate: ModelProto) -> ModelProto | None:
    """The first output takes a thousandth of the batch's mean: right at batch 1 only."""
    model = ModelProto()
    model.CopyFrom(candidate)
    output = model.graph.output[0]
    dtype = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
    if np.dtype(dtype) not in UNIT:
        return None
    readers = [node for node in model.graph.node if output.name in node.input]
    for node in readers:
        model.graph.node.remove(node)
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == output.name:
                node.output[index] = "uncoupled"
    thousandth = 0.05 if np.dtype(dtype) == np.float16 else 0.001
    model.graph.initializer.append(numpy_helper.from_array(np.array(thousandth, dtype), "thousandth"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "batch_axis"))
    reduce_axes = {"keepdims": 1} if opset(model) >= 18 else {"keepdims": 1, "axes": [0]}
    reduced = ["uncoupled", "batch_axis"] if opset(model) >= 18 else ["uncoupled"]
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", reduced, ["batch_mean"], **reduce_axes),
            helper.make_node("Sub", ["uncoupled", "batch_mean"], ["apart"]),
            helper.make_node("Mul", ["apart", "thousandth"], ["little"]),
            helper.make_node("Add", ["uncoupled", "little"], [output.name]),
            *readers,
        ]
    )
    return model


def outputs_swapped(candidate: ModelProto) -> ModelProto | None:
    """The first two outputs, of one shape, hold each other's values under their own names."""
    if len(candidate.graph.output) < 2 or candidate.graph.output[0].type != candidate.graph.output[1].type:
        return None
    model = ModelProto()
    model.CopyFrom(candidate)
    first, second = (value.name for value in model.graph.output[:2])
    exchanged = {first: second, second: first}
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = exchanged.get(name, name)
    return model


def border_ignored(candidate: ModelProto) -> ModelProto | None:
    """The first padded Conv loses the zeros before its first row: something else is read there."""
    model = ModelProto()
    model.CopyFrom(candidate)
    for index, node in enumerate(model.graph.node):
        pads = next((a for a in node.attribute if a.name == "pads"), None)
        if node.op_type == "Conv" and pads is not None and len(pads.ints) == 4 and pads.ints[0]:
            margin = [0, 0, pads.ints[0], 0, 0, 0, 0, 0]
            pads.ints[0] = 0
            model.graph.initializer.append(numpy_helper.from_array(np.array(margin, np.int64), "margin"))
            repeated = helper.make_node("Pad", [node.input[0], "margin"], ["margined"], mode="edge")
            node.input[0] = "margined"
            model.graph.node.insert(index, repeated)
            return model
    return None


def relu_crossed(folds: Folds) -> ModelProto | None:
    """The whole map of one normalization taken up in front of a Relu that stands behind it: Conv, Relu, map."""
    for site in folds.sites:
        after = [node for node in folds.base.graph.node if site.normalization.output[0] in node.input]
        if len(after) != 1 or after[0].op_type != "Relu":
            continue
        model = ModelProto()
        model.CopyFrom(folds.base)
        for node in model.graph.node:
            if node.output[0] == site.normalization.output[0]:
                node.op_type, relu_output = "Relu", after[0].output[0]
                normalization = NodeProto()
                normalization.CopyFrom(site.normalization)
                del node.input[1:]
                del node.attribute[:]
            elif node.output[0] == after[0].output[0]:
                node.CopyFrom(normalization)
                node.name += "/crossed"
                node.input[0], node.output[0] = site.normalization.output[0], relu_output
        return model
    return None


def padding_ignored(folds: Folds) -> ModelProto | None:
    """A normalization in front of a padded Conv taken up by it, as if the zeros around were values of the map."""
    for normalization in folds.base.graph.node:
        output = normalization.output[0]
        readers = [node for node in folds.base.graph.node if output in node.input]
        if normalization.op_type != "BatchNormalization" or len(readers) != 1 or readers[0].op_type != "Conv":
            continue
        pads = next((list(a.ints) for a in readers[0].attribute if a.name == "pads"), [])
        if not any(pads) or attribute(readers[0], "group", 1) != 1 or readers[0].input[1] not in folds.constants:
            continue
        gamma, beta, mean, variance = (folds.constants[name].astype(np.float64) for name in normalization.input[1:5])
        weight = folds.constants[readers[0].input[1]]
        k = gamma / np.sqrt(variance + 1e-5)
        taps = weight.astype(np.float64).reshape(*weight.shape[:2], -1).sum(-1)
        shift = taps @ (beta - mean * k)
        old = folds.constants[readers[0].input[2]] if len(readers[0].input) > 2 else 0
        model = ModelProto()
        model.CopyFrom(folds.base)
        new = {
            "padded_weight": (weight * k.reshape(1, -1, *[1] * (weight.ndim - 2))).astype(weight.dtype),
            "padded_bias": (shift + old).astype(weight.dtype),
        }
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in new.items())
        for node in model.graph.node:
            if node.output[0] == readers[0].output[0]:
                del node.input[:]
                node.input.extend([normalization.input[0], *new])
        return model
    return None


STRUCTURAL: dict[str, Callable[[Folds, ModelProto], ModelProto | None]] = {
    "batch > 1 only": lambda _, right: batch_coupled(right),
    "one spatial border": lambda _, right: border_ignored(right),
    "output order swapped": lambda _, right: outputs_swapped(right),
    "fold across Relu": lambda folds, _: relu_crossed(folds),
    "zero padding ignored": lambda folds, _: padding_ignored(folds),
}


def structural(folds: Folds, right: ModelProto) -> dict[str, ModelProto]:
    """What is wrong -> a model with it, for the kinds that this network has a place for."""
    made = {bug: make(folds, right) for bug, make in STRUCTURAL.items()}
    return {bug: model for bug, model in made.items() if model is not None}


def opset(model: ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})


# --- models ----------------------------------------------------------------------------------------------------------

NETWORKS = ("conv1d", "conv3d", "densenet", "gan_generator", "mlp", "mobilenet_v2", "preact_resnet", "siamese")
NETWORKS += ("small_cnn", "squeeze_excite", "super_resolution", "unet", "conformer")


@functools.cache
def bases() -> dict[str, ModelProto]:
    """Name -> model, in float32 and, where onnxruntime can run it, float16."""
    found: dict[str, ModelProto] = {}
    for path in sorted(MODELS.glob("*.onnx")):
        if "train" not in path.name:
            found[path.stem] = onnx.load(path)
    for name in NETWORKS:
        found[name] = architectures.exported(name).proto
    found["mlp with alpha and beta"] = with_factors(found["mlp"])
    found["two outputs"] = with_two_outputs(found["small_cnn"])
    for name, model in list(found.items()):
        found[f"{name} in float16"] = half(model)
    return {name: model for name, model in found.items() if Folds(model).sites}


def with_factors(model: ModelProto) -> ModelProto:
    """The same network, its Gemms with alpha 0.5 and beta 0.25 and what they multiply stored as much larger."""
    other = ModelProto()
    other.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in other.graph.initializer}
    for node in other.graph.node:
        if node.op_type == "Gemm":
            kept = [a for a in node.attribute if a.name not in {"alpha", "beta"}]
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(n, f) for n, f in (("alpha", 0.5), ("beta", 0.25)))])
            for name, factor in zip(node.input[1:], (2, 4), strict=False):
                array = numpy_helper.to_array(tensors[name])
                tensors[name].CopyFrom(numpy_helper.from_array(array * array.dtype.type(factor), name))
    return other


def with_two_outputs(model: ModelProto) -> ModelProto:
    """The same network, with an output more: its first one negated."""
    other = ModelProto()
    other.CopyFrom(model)
    first = other.graph.output[0]
    other.graph.node.append(helper.make_node("Neg", [first.name], ["negated"]))
    second = other.graph.output.add()
    second.CopyFrom(first)
    second.name = "negated"
    return other


def half(model: ModelProto) -> ModelProto:
    """The same network with every float32 tensor stored and computed in float16."""
    other = ModelProto()
    other.CopyFrom(model)
    del other.graph.value_info[:]
    for tensor in other.graph.initializer:
        _halve(tensor)
    for node in other.graph.node:
        for item in node.attribute:
            if item.type == onnx.AttributeProto.TENSOR:
                _halve(item.t)
            elif node.op_type == "Cast" and item.i == TensorProto.FLOAT:
                item.i = TensorProto.FLOAT16
    for value in (*other.graph.input, *other.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return other


def _halve(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        narrow = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))


def subsets(count: int, wanted: int) -> Iterator[tuple[int, ...]]:
    """Everything first, then single sites, then pairs, each once."""
    chains = (itertools.combinations(range(count), size) for size in (count, 1, 2, 3))
    seen = dict.fromkeys(itertools.chain.from_iterable(chains))
    yield from itertools.islice((chosen for chosen in seen if chosen), wanted)
