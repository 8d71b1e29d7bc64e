"""Real architectures at toy sizes, exported by PyTorch with every BatchNormalization left in the graph.

`exported(name)` builds one with seeded weights and statistics that no mistake hides behind (gammas of both signs, means
and variances off those of the data), exports it, and returns it with feeds and what PyTorch computes. Everything is
cached for the session. Nothing prints or warns.
"""

import contextlib
import copy
import functools
import io
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from tests.shared import shared

Exporter = Literal["torchscript", "torchscript-unfolded", "dynamo", "dynamo-optimized"]
"""PyTorch's two exporters, each with and without its own clean-up.

`torchscript` evaluates constant expressions, `torchscript-unfolded` leaves them: there a Linear is a MatMul with a
Transpose of its weight. `dynamo` is `optimize=False`; `dynamo-optimized`, PyTorch's default, folds the BatchNorms that
onnxscript can.
"""
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@dataclass(frozen=True)
class Exported:
    """An exported module: the bytes of the file, feeds by input name, PyTorch's outputs in the file's order."""

    model: bytes
    feeds: dict[str, NDArray[np.float32]]
    expected: tuple[NDArray[np.float32], ...]

    @property
    def proto(self) -> ModelProto:
        """A fresh ModelProto, free to be edited."""
        return onnx.load_from_string(self.model)


# --- the modules -----------------------------------------------------------------------------------------------------


class Residual(nn.Sequential):
    """x + f(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class DenseLayer(nn.Sequential):
    """Concat(x, f(x)) on the channels."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], 1)


def densenet() -> nn.Module:
    """Every dense layer and the transition begin with a BatchNorm on a Concat that several layers read."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        DenseLayer(8, 4),
        DenseLayer(12, 4),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 10, 1, bias=False),
        nn.AvgPool2d(2),
        DenseLayer(10, 4),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(14, 5),
    )


class PreactBlock(nn.Module):
    """He et al. 2016: BN, ReLU, Conv twice; a changed size takes its shortcut after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.rest = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        changes = inputs != outputs or stride != 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.first(x)
        return self.rest(activated) + (x if self.shortcut is None else self.shortcut(activated))


def preact_resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        PreactBlock(8, 8, 1),
        PreactBlock(8, 14, 2),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(14, 5),
    )


def conv_bn(inputs: int, outputs: int, activation: nn.Module, **how: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **how), nn.BatchNorm2d(outputs), activation
    )


class UNet(nn.Module):
    """Two levels. One BatchNorm stands on the ConvTranspose, one on the Concat of the way up and the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Sequential(conv_bn(3, 6, nn.ReLU()), conv_bn(6, 8, nn.ReLU()))
        self.middle = nn.Sequential(conv_bn(8, 12, nn.ReLU()), conv_bn(12, 16, nn.ReLU()))
        self.bottom = conv_bn(16, 20, nn.ReLU())
        self.up_middle = nn.Sequential(nn.ConvTranspose2d(20, 14, 2, stride=2), nn.BatchNorm2d(14))
        self.back_middle = nn.Sequential(nn.BatchNorm2d(30), conv_bn(30, 12, nn.ReLU()))
        self.up_outer = nn.ConvTranspose2d(12, 10, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.join = nn.BatchNorm2d(18)
        self.back_outer = conv_bn(18, 7, nn.ReLU())
        self.head = nn.Conv2d(7, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        outer = self.outer(image)
        middle = self.middle(functional.max_pool2d(outer, 2))
        bottom = self.bottom(functional.max_pool2d(middle, 2))
        middle = self.back_middle(torch.cat([self.up_middle(bottom), middle], 1))
        outer = self.join(torch.cat([self.up_outer(middle), outer], 1))
        return self.head(self.back_outer(outer))


class Levit(nn.Module):
    """LeViT of `transformers`, small: Linear -> Flatten -> BN -> Reshape throughout, and BN before its heads."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LevitConfig
        from transformers.models.levit.modeling_levit import LevitForImageClassificationWithTeacher

        self.levit = LevitForImageClassificationWithTeacher(
            LevitConfig(  # type: ignore[call-arg]  # it takes what its base class takes
                image_size=64,
                hidden_sizes=[16, 24, 32],
                num_attention_heads=[2, 3, 4],
                depths=[1, 1, 1],
                key_dim=[8, 8, 8],
                attention_ratio=[2, 2, 2],
                mlp_ratio=[2, 2, 2],
                drop_path_rate=0,
                num_labels=5,
            )
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.levit(image).logits


class ConformerBlock(nn.Module):
    """Gulati et al. 2020 on [N, T, 16]: half a feed-forward, attention, the convolution module, half a feed-forward."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = (self._feed_forward(width) for _ in range(2))
        self.normalize, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.narrow = nn.LayerNorm(width)
        self.convolution = nn.Sequential(
            nn.Conv1d(width, 2 * width, 1),
            nn.GLU(1),
            nn.Conv1d(width, width, 5, padding=2, groups=width),
            nn.BatchNorm1d(width),
            nn.SiLU(),
            nn.Conv1d(width, width, 1),
        )

    @staticmethod
    def _feed_forward(width: int) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.before(x) / 2
        query, key, value = self.queries(self.normalize(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]), -1)
        x = x + self.mix((weights @ value).transpose(1, 2).flatten(2))
        x = x + self.convolution(self.narrow(x).transpose(1, 2)).transpose(1, 2)
        return self.last(x + self.after(x) / 2)


def gan_generator() -> nn.Module:
    """DCGAN: a chain of ConvTranspose, BN, ReLU from [N, 10, 1, 1]."""
    return nn.Sequential(
        nn.ConvTranspose2d(10, 20, (3, 4), bias=False),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.ConvTranspose2d(20, 12, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1, groups=4),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
        nn.Tanh(),
    )


def inverted_residual(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    wide = 3 * inputs
    kind = Residual if stride == 1 and inputs == outputs else nn.Sequential
    return kind(
        nn.Conv2d(inputs, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU6(),
        nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU6(),
        nn.Conv2d(wide, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


def mobilenet_v2() -> nn.Module:
    """Depthwise convolutions without bias; some BatchNorms of the bottlenecks feed an Add and the next Conv at once."""
    return nn.Sequential(
        conv_bn(3, 6, nn.ReLU6(), stride=2),
        inverted_residual(6, 8, 1),
        inverted_residual(8, 8, 1),
        inverted_residual(8, 10, 2),
        inverted_residual(10, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(10, 5),
    )


class SqueezeExcite(nn.Module):
    """x times a gate per channel, computed from its means; the squeeze has a BatchNorm on 1x1 images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, 4, 1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def squeeze_excite() -> nn.Module:
    """A residual block whose last BatchNorm is read by the gate and by what it gates."""
    block = (nn.Conv2d(9, 9, 3, padding=1, bias=False), nn.BatchNorm2d(9), SqueezeExcite(9))
    return nn.Sequential(conv_bn(3, 9, nn.Hardswish()), Residual(*block), nn.ReLU())


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(7, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 9, bias=False),
        nn.BatchNorm1d(9),
        nn.ReLU(),
        nn.BatchNorm1d(9),
        nn.Linear(9, 5),
    )


class SequenceMlp(nn.Module):
    """Linear on [N, T, C] is MatMul + Add; BatchNorm1d wants [N, C, T], so it stands between two Transposes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 10, bias=False)
        self.normalize, self.normalize_again = nn.BatchNorm1d(10), nn.BatchNorm1d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalize(self.first(x).transpose(1, 2)).transpose(1, 2).relu()
        return self.normalize_again(self.second(x).transpose(1, 2)).transpose(1, 2)


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 10, 5, stride=2, padding=2),
        nn.BatchNorm1d(10),
        nn.ReLU(),
        nn.Conv1d(10, 6, 3, dilation=2, groups=2, bias=False),
        nn.BatchNorm1d(6),
        nn.ELU(),
        nn.ConvTranspose1d(6, 8, 4, stride=3, padding=1, output_padding=1, groups=2),
        nn.BatchNorm1d(8),
    )


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 7, (3, 2, 3), padding=1, bias=False),
        nn.BatchNorm3d(7),
        nn.ReLU(),
        nn.AvgPool3d(2),
        nn.BatchNorm3d(7),
        nn.Conv3d(7, 5, 2),
        nn.BatchNorm3d(5),
        nn.ConvTranspose3d(5, 4, 2, stride=2),
        nn.BatchNorm3d(4),
        nn.ReLU(),
    )


def super_resolution() -> nn.Module:
    """What stands between Conv and BatchNorm only moves or repeats elements: PixelShuffle, nearest upsampling."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.PixelShuffle(2),
        nn.BatchNorm2d(6),
        nn.PReLU(6),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.BatchNorm2d(8),
        nn.ReflectionPad2d(1),
        nn.Conv2d(8, 3, 3),
    )


class Siamese(nn.Module):
    """One Conv and one BatchNorm, used on two inputs: the same weights are read twice, from two different places."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = conv_bn(3, 8, nn.ReLU())
        self.distance = nn.BatchNorm2d(8)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.distance(self.branch(left) - self.branch(right))


class FrozenBatchNorm(nn.Module):
    """As detection models write it: scale and shift are computed from buffers, in the forward pass."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(channels)
        for name in ("weight", "bias", "running_mean"):
            self.register_buffer(name, torch.randn(channels, generator=generator))
        self.register_buffer("running_var", torch.rand(channels, generator=generator) + 0.3)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, variance = (vector.reshape(1, -1, 1, 1) for vector in self.buffers())
        scale = weight * (variance + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


def frozen_batch_norm() -> nn.Module:
    """No BatchNormalization by name, two in disguise."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), FrozenBatchNorm(8), nn.ReLU(), nn.Conv2d(8, 5, 3), FrozenBatchNorm(5)
    )


def batch_statistics() -> nn.Module:
    """track_running_stats=False: normalizes with the batch, in eval mode too."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.Conv2d(8, 5, 1)
    )


def small_cnn() -> nn.Module:
    """For the train-mode exports: Conv and Linear with BatchNorm, and Dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8, momentum=0.2),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2),
        nn.BatchNorm2d(6, eps=1e-3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(6 * 3 * 2, 7),
        nn.BatchNorm1d(7),
    )


IMAGE = (3, 8, 6)
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "batch_statistics": (batch_statistics, (IMAGE,)),
    "conformer": (ConformerBlock, ((11, 16),)),
    "conv1d": (conv1d, ((4, 19),)),
    "conv3d": (conv3d, ((2, 6, 5, 7),)),
    "densenet": (densenet, (IMAGE,)),
    "frozen_batch_norm": (frozen_batch_norm, (IMAGE,)),
    "gan_generator": (gan_generator, ((10, 1, 1),)),
    "levit": (Levit, ((3, 64, 64),)),
    "mlp": (mlp, ((7,),)),
    "mobilenet_v2": (mobilenet_v2, ((3, 14, 10),)),
    "preact_resnet": (preact_resnet, (IMAGE,)),
    "sequence_mlp": (SequenceMlp, ((5, 6),)),
    "siamese": (Siamese, (IMAGE, IMAGE)),
    "small_cnn": (small_cnn, (IMAGE,)),
    "squeeze_excite": (squeeze_excite, (IMAGE,)),
    "super_resolution": (super_resolution, (IMAGE,)),
    "unet": (UNet, ((3, 12, 8),)),
}
"""Each architecture with the shapes of its inputs, without the batch."""

UNSUPPORTED: dict[tuple[str, Exporter], str] = {
    ("batch_statistics", "torchscript"): "needs a fixed batch",
    ("conv3d", "dynamo"): "writes a bias of the shape of the weight, which onnxruntime refuses",
}
"""What PyTorch 2.13 cannot export, and why."""

# Which opsets each exporter of PyTorch 2.13 writes a train-mode small_cnn at; see tests/models/test_architectures.py.
TRAIN_MODE_OPSETS: dict[Exporter, tuple[int, ...]] = {
    "torchscript": (11, 13, 15, 17, 18, 20, 22),
    "dynamo": (17, 18, 20, 22),  # asked for less it writes 18, and says so in its log only
}


# --- weights, statistics, export -------------------------------------------------------------------------------------


def normalizations(module: nn.Module) -> Iterator[BatchNorm]:
    return (layer for layer in module.modules() if isinstance(layer, BatchNorm))


@functools.cache
def trained(name: str) -> nn.Module:
    """The module in eval mode, as if trained: do not change it, copy it.

    Running statistics are those of a random batch, then moved: means by up to half a standard deviation, variances by
    up to a factor of two. About a quarter of the gammas are negative.
    """
    build, shapes = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, name)))
        module = build()
        for layer in normalizations(module):
            sign = torch.where(torch.rand(layer.num_features) < 0.25, -1.0, 1.0)
            layer.weight.data = sign * (0.5 + torch.rand(layer.num_features))
            layer.bias.data = torch.randn(layer.num_features) / 3
        momenta = [layer.momentum for layer in normalizations(module)]
        for layer in normalizations(module):
            layer.momentum = None  # PyTorch for: the mean over all batches seen
        with torch.no_grad():
            module.train()(*(torch.randn(16, *shape) for shape in shapes))
        for layer, momentum in zip(normalizations(module), momenta, strict=True):
            layer.momentum = momentum
            if layer.running_mean is not None:
                layer.running_mean += (torch.rand(layer.num_features) - 0.5) * layer.running_var.sqrt()
                layer.running_var *= 2 ** (2 * torch.rand(layer.num_features) - 1)
    return module.eval()


def _inputs(name: str, batch: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    return tuple(torch.randn(batch, *shape, generator=generator) for shape in ARCHITECTURES[name][1])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Exporters warn of their own deprecation, log version conversions, and print progress."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def export_module(module: nn.Module, inputs: tuple[Tensor, ...], exporter: Exporter, opset: int) -> bytes:
    """Dynamic batch. The module's own mode decides between inference and train mode."""
    names = [f"input_{position}" for position in range(len(inputs))]
    target = io.BytesIO()
    with _quietly(), torch.random.fork_rng():
        if exporter.startswith("torchscript"):
            mode = torch.onnx.TrainingMode
            torch.onnx.export(
                module,
                inputs,
                target,
                dynamo=False,
                training=mode.TRAINING if module.training else mode.PRESERVE,
                do_constant_folding=exporter == "torchscript" and not module.training,
                opset_version=opset,
                input_names=names,
                output_names=["output"],
                dynamic_axes={name: {0: "batch"} for name in [*names, "output"]},
            )
            return target.getvalue()
    return export_by_dynamo(module, inputs, opset)[exporter]


def export_by_dynamo(module: nn.Module, inputs: tuple[Tensor, ...], opset: int) -> dict[Exporter, bytes]:
    """Both forms of one export, which takes most of the time: without PyTorch's optimization, and with it."""
    with _quietly(), torch.random.fork_rng():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            optimize=False,
            opset_version=opset,
            input_names=[f"input_{position}" for position in range(len(inputs))],
            output_names=["output"],
            dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs),
            verbose=False,
        )
        assert program is not None
        plain = program.model_proto.SerializeToString()
        program.optimize()
        return {"dynamo": plain, "dynamo-optimized": program.model_proto.SerializeToString()}


@shared
def _exported_by_dynamo(name: str, opset: int) -> dict[Exporter, bytes]:
    return export_by_dynamo(copy.deepcopy(trained(name)), _inputs(name, 2), opset)


@shared
def exported(name: str, exporter: Exporter = "torchscript", opset: int = 18) -> Exported:
    """An architecture in eval mode, with inference BatchNormalization; feeds are a batch of 3, traced with one of 2."""
    module = trained(name)
    inputs = _inputs(name, 3)
    with torch.no_grad():
        expected = module(*inputs)
    if exporter.startswith("dynamo"):
        model = _exported_by_dynamo(name, opset)[exporter]
    else:
        model = export_module(copy.deepcopy(module), _inputs(name, 2), exporter, opset)
    return Exported(
        model=model,
        feeds={f"input_{position}": tensor.numpy() for position, tensor in enumerate(inputs)},
        expected=(expected.numpy(),),
    )


@shared
def exported_in_train_mode(exporter: Exporter, opset: int, name: str = "small_cnn") -> Exported:
    """An export where `.eval()` was forgotten. `expected` is what the `.eval()` network computes.

    Tracing moves the running statistics of the file towards the example inputs; `expected` uses the statistics that the
    file holds, so a frozen model should agree with it.
    """
    module = copy.deepcopy(trained(name)).train()
    model = export_module(module, _inputs(name, 5), exporter, opset)
    inputs = _inputs(name, 3)
    frozen = copy.deepcopy(trained(name))
    for tensor in onnx.load_from_string(model).graph.initializer:
        if tensor.name.endswith(("running_mean", "running_var")):
            frozen.get_buffer(tensor.name).copy_(torch.from_numpy(numpy_helper.to_array(tensor).copy()))
    with torch.no_grad():
        expected = frozen(*inputs)
    return Exported(
        model=model,
        feeds={f"input_{position}": tensor.numpy() for position, tensor in enumerate(inputs)},
        expected=(expected.numpy(),),
    )


# --- looking at graphs -----------------------------------------------------------------------------------------------


def neighbourhoods(model: ModelProto, operator: str = "BatchNormalization") -> Counter[str]:
    """How often each "producer > consumers" stands around a node of this type, as in "Conv > Add Relu"."""
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    found: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type != operator:
            continue
        after = sorted(other.op_type for other in model.graph.node for name in other.input if name == node.output[0])
        after += ["output"] * any(value.name == node.output[0] for value in model.graph.output)
        found[f"{producers.get(node.input[0], 'input')} > {' '.join(after)}"] += 1
    return found
