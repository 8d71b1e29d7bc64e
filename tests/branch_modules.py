"""Networks whose blocks have parallel linear branches while they are trained, and which their authors merge for use.

Written from the papers: RepVGG (arXiv 2101.03697), MobileOne (2206.04040), ACNet (1908.03930), DBB (2103.13425).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int | tuple[int, int], **how: int) -> nn.Sequential:
    """A convolution that keeps the size, and its normalization."""
    taps = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (taps[0] // 2, taps[1] // 2)
    return nn.Sequential(nn.Conv2d(inputs, outputs, taps, padding=padding, bias=False, **how), nn.BatchNorm2d(outputs))


class Sum(nn.Module):
    """The sum of what several branches make of one value."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.branches
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return total


def repvgg_block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """3 x 3, 1 x 1, and where the shapes allow a normalization of the value itself."""
    identity = [nn.BatchNorm2d(inputs)] if inputs == outputs and stride == 1 else []
    return Sum(conv_bn(inputs, outputs, 3, stride=stride), conv_bn(inputs, outputs, 1, stride=stride), *identity)


def repvgg(widths: Sequence[int], depths: Sequence[int], classes: int) -> nn.Module:
    """A block with stride 2 and others behind it in each stage; pooling and a classifier."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in zip(widths, depths, strict=True):
        for number in range(depth):
            layers += [repvgg_block(channels, width, 1 if number else 2), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def repvgg_a0() -> nn.Module:
    """RepVGG-A0: 22 blocks."""
    return repvgg([48, 48, 96, 192, 1280], [1, 2, 4, 14, 1], 1000)


def mobileone(channels: int = 6, outputs: int = 8, over: int = 4) -> nn.Module:
    """Depthwise: `over` branches of 3 x 3, one of 1 x 1, and the value; then pointwise: as many, and the value."""
    depthwise = [conv_bn(channels, channels, 3, groups=channels) for _ in range(over)]
    pointwise = [conv_bn(channels, channels, 1) for _ in range(over)]
    return nn.Sequential(
        Sum(*depthwise, conv_bn(channels, channels, 1, groups=channels), nn.BatchNorm2d(channels)),
        nn.ReLU(),
        Sum(*pointwise, nn.BatchNorm2d(channels)),
        nn.ReLU(),
        Sum(*(conv_bn(channels, outputs, 1) for _ in range(over))),
        nn.ReLU(),
    )


def acnet(channels: int = 5, outputs: int = 7) -> nn.Module:
    """3 x 3, 1 x 3 and 3 x 1."""
    shapes: list[int | tuple[int, int]] = [3, (1, 3), (3, 1)]
    return nn.Sequential(
        Sum(*(conv_bn(channels, outputs, shape) for shape in shapes)),
        nn.ReLU(),
        Sum(*(conv_bn(outputs, outputs, shape, stride=2) for shape in shapes)),
        nn.ReLU(),
    )


def dbb(channels: int = 5, outputs: int = 6, *, padded: bool = False) -> nn.Module:
    """3 x 3, 1 x 1 then 3 x 3, 1 x 1 then averages. The sequences are one kernel exactly where nothing is padded."""
    padding = 1 if padded else 0

    def block(inputs: int) -> nn.Module:
        three, behind = (nn.Conv2d(inputs, outputs, 3, padding=padding, bias=False) for _ in range(2))
        return Sum(
            nn.Sequential(three, nn.BatchNorm2d(outputs)),
            nn.Sequential(conv_bn(inputs, inputs, 1), behind, nn.BatchNorm2d(outputs)),
            nn.Sequential(conv_bn(inputs, outputs, 1), nn.AvgPool2d(3, 1, padding), nn.BatchNorm2d(outputs)),
        )

    return nn.Sequential(block(channels), nn.ReLU(), block(outputs), nn.ReLU())


def as_if_trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random gammas of both signs, betas and statistics; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            size = layer.num_features
            sign = torch.where(torch.rand(size, generator=generator) < 0.2, -1.0, 1.0)
            layer.weight.data = sign * (0.5 + torch.rand(size, generator=generator))
            layer.bias.data = torch.randn(size, generator=generator) / 3
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.copy_(torch.randn(size, generator=generator) / 3)
            layer.running_var.copy_(0.5 + torch.rand(size, generator=generator))
    return module.eval()
