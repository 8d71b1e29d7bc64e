"""What becomes of models of other frameworks' exporters.

`python -m benchmarks.exporters [NAME...]` makes a virtual environment for each exporter under --envs (by pip, once),
has it write its models there with random statistics, and optimizes each of them by the bnfold of this environment. A
line for each model: nodes, constant gains and biases right behind a linear operator (`benchmarks.left_behind`, which
uses nothing of the code that folds) and BatchNormalizations before and after, the verdict, and the processor time in
seconds. With --onnxslim the nodes that onnxslim leaves, and bnfold behind it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.environments import environment
from benchmarks.left_behind import counted

_KERAS = """
    import os, sys
    os.environ["KERAS_BACKEND"] = {backend!r}
    import keras, numpy as np
    rng = np.random.default_rng(0)
    for name in ("MobileNetV2", "MobileNetV3Small"):
        model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)
        for layer in model.layers:  # statistics, and biases, which are zeros at first
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else w for w in layer.get_weights()])
        model(np.zeros((1, 64, 64, 3), "float32"))
        model.export(f"{{sys.argv[1]}}/{{name}}.onnx", format="onnx", verbose=False)
"""
_TF2ONNX = """
    import sys, numpy as np, tensorflow as tf, tf2onnx
    rng = np.random.default_rng(0)
    model = tf.keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), classes=10)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    spec = (tf.TensorSpec((None, 64, 64, 3), tf.float32, name="x"),)
    call = tf.function(lambda x: model(x, training=False), input_signature=spec)
    for opset in (13, 17):
        for layout, names in (("nhwc", None), ("nchw", ["x:0"])):
            path = f"{sys.argv[1]}/mobilenetv2_{layout}_{opset}.onnx"
            tf2onnx.convert.from_function(call, spec, opset=opset, inputs_as_nchw=names, output_path=path)
"""
_SKLEARN = """
    import sys, numpy as np
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (200, 12)).astype(np.float32), rng.integers(0, 3, 200)
    for name, last in (("mlp", MLPClassifier((16,), max_iter=30)), ("logistic", LogisticRegression())):
        fitted = make_pipeline(StandardScaler(), last).fit(x, y)
        model = to_onnx(fitted, x[:1], options={id(fitted): {"zipmap": False}})
        open(f"{sys.argv[1]}/{name}.onnx", "wb").write(model.SerializeToString())
"""
_JAX = """
    import sys, numpy as np, jax, onnx
    from jax2onnx import to_onnx
{model}
    made = to_onnx(call, [{shape}])
    onnx.save(made, f"{{sys.argv[1]}}/network.onnx")
"""
_FLAX = """
    from flax import nnx
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs, use_running_average=True)
            self.out = nnx.Linear(8, 4, rngs=rngs)
            rng = np.random.default_rng(0)
            self.norm.mean.value = jax.numpy.asarray(rng.normal(size=8), "float32")
            self.norm.var.value = jax.numpy.asarray(rng.uniform(0.5, 2, 8), "float32")
        def __call__(self, x):
            return self.out(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))
    call = Network(nnx.Rngs(0))
"""
_EQUINOX = """
    import equinox as eqx
    network, state = eqx.nn.make_with_state(eqx.nn.Sequential)([
        eqx.nn.Linear(6, 8, key=jax.random.key(0)), eqx.nn.BatchNorm(8, "batch", mode="batch"),
        eqx.nn.Linear(8, 4, key=jax.random.key(1))])
    network = eqx.nn.inference_mode(network)
    def call(x):
        return jax.vmap(lambda row: network(row, state)[0], axis_name="batch")(x)
"""
_PADDLE = """
    import sys, numpy as np, paddle
    rng = np.random.default_rng(0)
    model = paddle.vision.models.mobilenet_v2(num_classes=10)
    model.eval()
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer._mean.set_value(rng.normal(size=layer._mean.shape).astype("float32"))
            layer._variance.set_value(rng.uniform(0.5, 2, layer._variance.shape).astype("float32"))
    spec = [paddle.static.InputSpec([None, 3, 64, 64], "float32", "x")]
    paddle.onnx.export(model, f"{sys.argv[1]}/mobilenetv2", input_spec=spec, opset_version=17)
"""
_DYNAMO = """
    import sys, torch
    from torch import nn
    torch.manual_seed(0)
    def block(i, o):
        norm = nn.BatchNorm2d(o)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), norm, nn.ReLU6())
    model = nn.Sequential(block(3, 16), block(16, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)).eval()
    for optimize in (False, True):
        program = torch.onnx.export(model, (torch.randn(2, 3, 32, 32),), dynamo=True, optimize=optimize)
        program.save(f"{sys.argv[1]}/blocks_{'optimized' if optimize else 'unoptimized'}.onnx")
"""
_ULTRALYTICS = """
    import os, shutil, sys
    os.chdir(sys.argv[1])
    from ultralytics import YOLO
    shutil.move(YOLO("yolov8n.yaml").export(format="onnx", imgsz=64, simplify=False), f"{sys.argv[1]}/yolov8n.onnx")
"""
_OPTIMUM = """
    import sys
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager
    from pathlib import Path
    from transformers import ResNetConfig, ResNetForImageClassification
    model = ResNetForImageClassification(ResNetConfig(depths=[1, 1], hidden_sizes=[16, 32], embedding_size=8)).eval()
    make = TasksManager.get_exporter_config_constructor("onnx", model, task="image-classification")
    export(model, make(model.config), Path(sys.argv[1]) / "resnet.onnx")
"""


@dataclass(frozen=True)
class Exporter:
    """What pip installs for it, and the program that writes models into the folder that is its argument.

    `python`: the interpreter that its packages are for, where that is another one than this.
    """

    packages: tuple[str, ...]
    program: str
    python: str = ""


_TF = ("tensorflow", "tf2onnx", "onnx", "tf_keras")
# With the last PyTorch and torchvision of PyPI that need no libraries of CUDA from there; they are for Python 3.10.
_YOLO = ("ultralytics", "onnx")
_FILL_JAX = {"model": _FLAX.strip("\n"), "shape": "(2, 16, 16, 3)"}
EXPORTERS = {
    "keras-torch": Exporter(("keras", "torch", "onnx", "onnxscript"), _KERAS.format(backend="torch")),
    "keras-tensorflow": Exporter(("keras", *_TF), _KERAS.format(backend="tensorflow")),
    "keras-jax": Exporter(("keras", "jax", "jax2onnx", "onnx"), _KERAS.format(backend="jax")),
    "tf2onnx": Exporter(_TF, _TF2ONNX),
    "paddle": Exporter(("paddlepaddle", "paddle2onnx", "onnx", "packaging"), _PADDLE),
    "flax": Exporter(("flax", "jax2onnx", "onnx"), _JAX.format(**_FILL_JAX)),
    "equinox": Exporter(
        ("equinox", "jax2onnx", "flax", "onnx"), _JAX.format(model=_EQUINOX.strip("\n"), shape="(5, 6)")
    ),
    "scikit-learn": Exporter(("scikit-learn", "skl2onnx"), _SKLEARN),
    "ultralytics": Exporter(("torch==1.12.1", "torchvision==0.13.1", "numpy<2", *_YOLO), _ULTRALYTICS, "python3.10"),
    "optimum": Exporter(("optimum-onnx", "transformers", "torch", "onnx"), _OPTIMUM),
    "dynamo": Exporter(("torch", "onnx", "onnxscript"), _DYNAMO),
}


def main(arguments: list[str]) -> None:
    """A line for each model of each exporter that was asked for, or one on what went wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPORTERS)}; all by default")
    parser.add_argument("--envs", type=Path, default=Path("build/exporters"), help="where the environments are")
    parser.add_argument("--onnxslim", metavar="COMMAND", help="what it leaves, alone and with bnfold behind")
    given = parser.parse_args(arguments)
    for name in given.names or EXPORTERS:
        exporter = EXPORTERS[name]
        python = environment(given.envs / name, exporter.packages, exporter.python)
        with tempfile.TemporaryDirectory(prefix="bnfold-exporter-") as folder:
            program = textwrap.dedent(exporter.program)
            done = subprocess.run([python, "-c", program, folder], capture_output=True, text=True, check=False)
            models = sorted(Path(folder).glob("*.onnx"))
            if not models:
                print(f"{name}: exported nothing: {(done.stderr.strip().splitlines() or [''])[-1]}", flush=True)
            for model in models:
                print(f"{name}: {line(model)}{slimmed(model, given.onnxslim)}", flush=True)


def line(model: Path) -> str:
    """What becomes of one model."""
    made, report = model.with_suffix(".folded.onnx"), model.with_suffix(".json")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = optimized(model, made, "--report", str(report))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if not made.exists():
        return f"{model.stem}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}"
    nodes = [nodes_of(path) for path in (model, made)]
    verdict = json.loads(report.read_text(encoding="utf-8"))["verdict"]
    maps = f"{counted(model)}; after: {counted(made)}"
    return f"{model.stem}: {nodes[0]} -> {nodes[1]} nodes; {maps}; {verdict}; {seconds:.1f} s"


def optimized(model: Path, made: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """One run of the command."""
    command = [sys.executable, "-m", "bnfold", "optimize", "-q", *options, str(model), str(made)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def nodes_of(model: Path) -> int:
    """The nodes of the main graph."""
    return len(onnx.load(model, load_external_data=False).graph.node)


def slimmed(model: Path, onnxslim: str | None) -> str:
    """The nodes that onnxslim leaves, and bnfold behind it."""
    if onnxslim is None:
        return ""
    slim, both = model.with_suffix(".slim.onnx"), model.with_suffix(".both.onnx")
    subprocess.run([onnxslim, str(model), str(slim)], capture_output=True, check=False)
    if not slim.exists():
        return "; onnxslim makes nothing of it"
    optimized(slim, both)
    return f"; onnxslim {nodes_of(slim)}, then bnfold {nodes_of(both) if both.exists() else 'refuses'}"


if __name__ == "__main__":
    main(sys.argv[1:])
