"""The small networks behind the ONNX files of this folder.

Each shows another way in which BatchNorm meets its neighbours. All take float32 images [N, 1, 8, 8] in [0, 1].
"""

import torch
from torch import Tensor, nn


class DigitsCnn(nn.Sequential):
    """Logits [N, 10]. BatchNorm behind a Conv, a depthwise Conv, a pointwise Conv and a Linear."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 2 * 2, 48),
            nn.BatchNorm1d(48),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(48, 10),
        )


class DigitsAutoencoder(nn.Module):
    """Reconstruction [N, 1, 8, 8] through a code of 12 numbers, with BatchNorm behind every ConvTranspose.

    The three differ on purpose: stride 1; stride 2 with output_padding; stride 2 with two groups.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 12, 3, stride=2, padding=1),
            nn.BatchNorm2d(12),
            nn.LeakyReLU(0.1),
            nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(24 * 2 * 2, 12),
        )
        self.widen = nn.Sequential(nn.Linear(12, 20 * 2 * 2), nn.BatchNorm1d(20 * 2 * 2), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(20, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.ConvTranspose2d(24, 16, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 10, 4, stride=2, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.Conv2d(10, 1, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstruction, [N, 1, 8, 8]."""
        return self.decoder(self.widen(self.encoder(images)).reshape(-1, 20, 2, 2))


class _PreactBlock(nn.Module):
    """The block of face recognition networks (IResNet): BN, Conv, BN, PReLU, Conv, BN, plus the input.

    The first BN feeds a zero-padded 3x3 Conv with nothing between. Where the block changes size, the shortcut is a
    BN feeding an unpadded 1x1 Conv.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(
                nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class DigitsPreact(nn.Module):
    """Logits [N, 10]. BatchNorm stands before its Conv or Linear: on the images, in each block, and before the head.

    The stem is BN -> unpadded Conv; blocks hold BN -> padded Conv; then BN -> ReLU -> Conv, where nothing can go
    forward; the head is BN -> Flatten -> Linear -> BN -> Linear.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 12, 3, bias=False))
        self.blocks = nn.Sequential(_PreactBlock(12, 20, 2), _PreactBlock(20, 20, 1))
        self.activated = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 28, 3, padding=1))
        self.head = nn.Sequential(
            nn.BatchNorm2d(28),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(28 * 3 * 3, 32),
            nn.BatchNorm1d(32),
            nn.Linear(32, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, [N, 10]."""
        return self.head(self.activated(self.blocks(self.stem(images))))


def loss_of(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy for the classifiers; mean squared error for the autoencoder."""
    output = network(images)
    if isinstance(network, DigitsAutoencoder):
        return nn.functional.mse_loss(output, images)
    return nn.functional.cross_entropy(output, labels, label_smoothing=0.05)


def seeded(network: type[nn.Module], seed: int) -> nn.Module:
    """A new network whose BatchNorm gammas and betas start away from 1 and 0, so that training spreads them."""
    torch.manual_seed(seed)
    made = network()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return made
