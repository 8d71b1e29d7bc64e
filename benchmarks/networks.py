"""Networks of the sizes that people deploy, 8 to 531 MB, with random weights, exported by PyTorch, for `default_cost`.

    python -m benchmarks.networks FOLDER

35 of pytorchcv and 4 of transformers with 2,105 BatchNormalizations, folded into nothing by the exporter. Those of
`innocents` are chosen to differ, and most of them are small.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.innocents import architecture, export

if TYPE_CHECKING:
    import torch

ARCHITECTURES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "bn_vgg11b", "preresnet50", "wrn50_2", "resnext50_32x4d"),
    *("seresnet50", "densenet121", "mobilenet_w1", "mobilenetv2_w1", "mobilenetv3_large_w1", "shufflenetv2_w1"),
    *("shufflenet_g3_w1", "efficientnet_b0", "inceptionv3", "xception", "bninception", "dla34", "hrnet_w18_small_v1"),
    *("vovnet39", "dpn68", "regnetx016", "ghostnet", "mnasnet_b1", "proxylessnas_gpu", "fbnet_cb", "igcv3_w1"),
    *("darknet53", "ibn_resnet50", "cbam_resnet18"),
)
SEGMENTING = {"linknet_cityscapes": 256, "unet_cityscapes": 256, "deeplabv3_resnetd50b_voc": 240}
"""By the size of the images, which is a multiple of what each divides them by."""
TRANSFORMERS = {
    "hf_ResNet": "ResNetForImageClassification",
    "hf_LeViT": "LevitForImageClassification",
    "hf_RegNet": "RegNetForImageClassification",
    "hf_MobileNetV2": "MobileNetV2ForImageClassification",
}


def networks() -> Iterator[tuple[str, Callable[[], "tuple[torch.nn.Module, tuple[int, int]]"]]]:
    """The name of each, and what makes it and says the size of its images."""
    for name in ARCHITECTURES:
        yield name, partial(_of_pytorchcv, name)
    for name, size in SEGMENTING.items():
        yield name, partial(_of_pytorchcv, name, in_size=(size, size))
    for name, kind in TRANSFORMERS.items():
        yield name, partial(_of_transformers, kind)


def _of_pytorchcv(name: str, **how: object) -> "tuple[torch.nn.Module, tuple[int, int]]":
    network = architecture(name, **how)
    return network, tuple(network.in_size)


def _of_transformers(kind: str) -> "tuple[torch.nn.Module, tuple[int, int]]":
    """A network as its default configuration describes it, which gives its logits."""
    import torch
    import transformers

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            made = getattr(transformers, kind)
            self.inner = made(made.config_class())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner(images).logits  # type: ignore[no-any-return]  # the output of every classifier there

    return Logits(), (224, 224)


def main(folder: Path) -> None:
    """Make those that are not there yet."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for name, make in networks():
        path = folder / f"{name}.onnx"
        if path.exists():
            continue
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network, size = make()
        export(network, size, path, images=2)
        print(f"{name:26} {path.stat().st_size / 1e6:6.1f} MB", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
