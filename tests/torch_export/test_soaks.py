"""Modules of many kinds through `bnfold.export` and through TorchScript, with each way to leave a mode wrong.

The file is right: its largest deviation from the module in evaluation mode is at most four times the module's own error
in float32 against float64; or it is refused by name. `pytest -m soak -s tests/torch_export/test_soaks.py` prints
the ratios. Models of pytorchcv take part where that is installed.
"""

import contextlib
import copy
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn

import bnfold
from bnfold.errors import BnfoldError
from tests.architectures import ARCHITECTURES, UNSUPPORTED, export_module, trained

pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning"),  # LeViT keeps tensors of a call
]
MOST = 4.0
FEEDS = 3
"""Feeds that a module and its file are compared on; the error is that of all of them."""


def everywhere(module: nn.Module) -> None:
    module.train()


def one_normalization(module: nn.Module) -> None:
    _normalizations(module)[-1].train()


def dropout(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            part.train()


def all_but_normalizations(module: nn.Module) -> None:
    module.train()
    for part in _normalizations(module):
        part.eval()


def by_hand(module: nn.Module) -> None:
    """The flag of the whole alone, as where somebody sets `training` and not the parts."""
    module.training = True


def right(_module: nn.Module) -> None:
    pass


MISTAKES: dict[str, Callable[[nn.Module], None]] = {
    each.__name__: each for each in (right, everywhere, one_normalization, dropout, all_but_normalizations, by_hand)
}


def _normalizations(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)] or [module]


def _transformers() -> Iterator[tuple[str, Callable[[], nn.Module], tuple[tuple[int, ...], ...]]]:
    """Models of transformers at random weights that hold BatchNormalization."""

    class First(nn.Module):
        """The first tensor that a model of transformers answers."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Tensor) -> Tensor:
            answer: Tensor = self.model(image, return_dict=False)[0]
            return answer

    def resnet() -> nn.Module:
        from transformers import ResNetConfig, ResNetModel

        return First(ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])))

    def regnet() -> nn.Module:
        from transformers import RegNetConfig, RegNetModel

        how = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8}
        return First(RegNetModel(RegNetConfig(**how)))

    def mobilenet_v1() -> nn.Module:
        from transformers import MobileNetV1Config, MobileNetV1Model

        return First(MobileNetV1Model(MobileNetV1Config(image_size=32, depth_multiplier=0.25)))

    yield from ((each.__name__, each, ((3, 32, 32),)) for each in (resnet, regnet, mobilenet_v1))


@contextlib.contextmanager
def _one_layer_of_torchvision() -> Iterator[None]:
    """pytorchcv names one layer of torchvision while it is imported, which the models here do not use."""
    missing = importlib.util.find_spec("torchvision") is None and "torchvision" not in sys.modules
    if missing:
        operators = types.ModuleType("torchvision.ops")
        operators.DeformConv2d = nn.Identity  # type: ignore[attr-defined]
        sys.modules |= {"torchvision": types.ModuleType("torchvision"), "torchvision.ops": operators}
    try:
        yield
    finally:
        for name in ("torchvision", "torchvision.ops") if missing else ():
            del sys.modules[name]


def _pytorchcv() -> Iterator[tuple[str, Callable[[], nn.Module], tuple[tuple[int, ...], ...]]]:
    if importlib.util.find_spec("pytorchcv") is None:
        return

    def of(name: str) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            with _one_layer_of_torchvision():
                from pytorchcv.model_provider import get_model
            made: nn.Module = get_model(name)
            return made

        return build

    small = ("resnet20_cifar10", "densenet40_k12_cifar10", "wrn16_10_cifar10", "shakeshakeresnet20_2x16d_cifar10")
    yield from ((name, of(name), ((3, 32, 32),)) for name in small)


OWN = [name for name in ARCHITECTURES if name not in ("batch_statistics", "frozen_batch_norm")]
OTHERS = {name: (build, shapes) for name, build, shapes in (*_transformers(), *_pytorchcv())}


def _shapes(name: str) -> tuple[tuple[int, ...], ...]:
    return ARCHITECTURES[name][1] if name in ARCHITECTURES else OTHERS[name][1]


def _module(name: str) -> nn.Module:
    """A module of its own, with statistics of its own, in evaluation mode."""
    if name in ARCHITECTURES:
        return copy.deepcopy(trained(name))
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, name)))
        module = OTHERS[name][0]()
        module.train()
        with torch.no_grad():
            for _ in range(3):
                module(*(torch.randn(8, *shape) for shape in _shapes(name)))
    return module.eval()


def _feeds(name: str) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(7)
    return [tuple(torch.randn(3, *shape, generator=generator) for shape in _shapes(name)) for _ in range(FEEDS)]


def _ratio(module: nn.Module, exact: nn.Module, model: ModelProto, feeds: list[tuple[Tensor, ...]]) -> float:
    """The file's largest deviation from the module, in units of the module's own largest error in float32.

    `exact` is a copy of the module in float64: some keep tensors of a call, with which they cannot be copied.
    """
    exact.load_state_dict(module.state_dict())
    module = module.eval()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    own = deviation = 0.0
    for feed in feeds:
        with torch.no_grad():
            answer = module(*feed).numpy()
            truth = exact(*(each.double() for each in feed)).numpy()
        [made] = session.run(None, dict(zip(names, (each.numpy() for each in feed), strict=True)))
        own = max(own, float(np.abs(answer - truth).max()))
        deviation = max(deviation, float(np.abs(made - answer).max()))
    return deviation / own


def _judge(what: str, ratio: float) -> None:
    print(f"{what}: {ratio:.2f}")
    assert ratio <= MOST, what


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", [*OWN, *OTHERS])
def test_an_exported_module_is_right_or_refused_by_name(name: str, mistake: str) -> None:
    module = _module(name)
    MISTAKES[mistake](module)
    modes = {path: part.training for path, part in module.named_modules()}
    before = {key: value.clone() for key, value in module.state_dict().items()}
    feeds = _feeds(name)
    dynamic = tuple({0: torch.export.Dim("batch")} for _ in _shapes(name))
    made: Any = None
    try:
        if (name, "dynamo") in UNSUPPORTED:
            with pytest.raises(BnfoldError, match="onnxruntime"):
                bnfold.export(module, feeds[0], dynamic_shapes=dynamic)
        else:
            made = bnfold.export(module, feeds[0], dynamic_shapes=dynamic)
    finally:
        assert {path: part.training for path, part in module.named_modules()} == modes
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    if made is not None:
        _judge(f"{name}, {mistake}", _ratio(module, _module(name).double(), made.model, feeds))


@pytest.mark.parametrize("mistake", ["right", "everywhere"])
@pytest.mark.parametrize("name", [name for name in (*OWN, *OTHERS) if (name, "torchscript") not in UNSUPPORTED])
def test_a_file_of_torchscript_is_right(name: str, mistake: str) -> None:
    """TorchScript moves the statistics of a module in training mode while it traces; the file is judged by its own.

    A module that draws random numbers of its own in training has no file that is right: the report says that it draws.
    """
    module = _module(name)
    MISTAKES[mistake](module)
    feeds = _feeds(name)
    file = export_module(module, feeds[0], "torchscript", 18)
    made = bnfold.optimize(file)
    if name.startswith("shakeshake") and mistake != "right":
        assert any("draws random numbers" in note for note in made.report.notes)
        return
    _judge(
        f"{name}, {mistake}, TorchScript",
        _ratio(module, _module(name).double(), ModelProto.FromString(made.model), feeds),
    )
