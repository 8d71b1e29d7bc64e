"""What bnfold says of what other optimizers make of right models.

    python -m benchmarks.rewritten [KINDS or FILES...] [--cache FOLDER] [--only WORD] [--by WORD]

Kinds are those of benchmarks.innocents. onnxsim, onnxslim, onnxoptimizer, onnxscript's rewriter and onnxruntime's
offline optimizer, each with what it does by default, rewrite each model, and `bnfold verify ORIGINAL REWRITTEN` judges
the result. What is right is found out here, by onnxruntime in float64: both models with every float made a double, on
normal values that bnfold does not know, and on zeros. Where that cannot be run, both in float32, to 1e-4 of the largest
value. A line for each as soon as it is judged; below them how many were judged in which way, and which of them
otherwise than they are, or are not known to be either, also where a signal ends the run before.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from benchmarks import contenders, innocents

OPTIMIZERS = [name for name in contenders.PEERS if name != "onnx load + save"]
_AS_IT_IS = {"right, called equivalent", "wrong, called not equivalent"}
_NOT_MADE = {"not made", "not made in time"}
_LEAST = 1e-2
"""Smaller values count as this large: where a detector sees nothing, its sigmoids are what rounding leaves, 1e-7."""
_PROVIDER = "CPUExecutionProvider"
_EXACT, _CLOSE = 1e-6, 1e-4
"""Of the largest value: another optimizer stores new weights in float32, which costs about 1e-7 for each layer."""


def main() -> None:
    """Parse, rewrite, judge, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rewritten", description=__doc__)
    parser.add_argument("what", nargs="*", default=["models", "light", "wheels", "pytorchcv"])
    parser.add_argument("--cache", type=Path, default=innocents.cache())
    parser.add_argument("--only", default="")
    parser.add_argument("--by", default="")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    optimizers = [name for name in OPTIMIZERS if chosen.by in name and not contenders.missing(name)]
    found: Counter[str] = Counter()
    misjudged = []
    try:
        for name, path in innocents.models(chosen.what, chosen.cache, chosen.only):
            for optimizer in optimizers:
                kind, words = judged(optimizer, path)
                print(f"{name} by {optimizer}: {kind}{words}", flush=True)
                found[kind] += 1
                misjudged += [f"{name} by {optimizer}: {kind}"] if kind not in _AS_IT_IS | _NOT_MADE else []
    finally:
        for kind, count in sorted(found.items()):
            print(f"{count:4} {kind}")
        print(f"{len(misjudged)} judged otherwise than they are, or unknown", *misjudged, sep="\n  ", flush=True)


def judged(optimizer: str, path: Path) -> tuple[str, str]:
    """What `optimizer` makes of a model is, and what bnfold says of it; with bnfold's own words."""
    with tempfile.TemporaryDirectory(prefix="bnfold-rewritten-") as folder:
        made = Path(folder) / "made.onnx"
        command = contenders.command(optimizer, path.resolve(), made)
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=innocents.TIMEOUT)
        except subprocess.TimeoutExpired:
            return "not made in time", ""
        if done.returncode or not made.exists():
            return "not made", ""
        truth = compared(path, made)
        answer = innocents.ask("verify", path, made)
    said = {0: "equivalent", 1: "not equivalent"}.get(answer.code, f"exit {answer.code}")
    return f"{truth}, called {said}", f": {answer.words}"


def compared(original: Path, rewritten: Path) -> str:
    """`right`, `wrong`, or `unknown` where neither can be told, as where the original answers otherwise each time."""
    try:
        if apart(onnx.load(original), onnx.load(original)):
            return "unknown"
        largest = apart(doubled(onnx.load(original)), doubled(onnx.load(rewritten)))
        limit = _EXACT
    except Exception:  # noqa: BLE001 - an operator without kernels for doubles
        try:
            largest = apart(onnx.load(original), onnx.load(rewritten))
            limit = _CLOSE
        except Unrunnable:
            return "wrong"
        except Exception:  # noqa: BLE001 - it cannot be run at all
            return "unknown"
    return "right" if largest <= limit else "wrong"


class Unrunnable(Exception):  # noqa: N818 - a fact about a model
    """onnxruntime runs the original and not what was made of it."""


def apart(one: ModelProto, other: ModelProto) -> float:
    """The largest difference of any output, as a part of that output's largest value. Raises Unrunnable for `other`."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    sessions = []
    for model in (one, other):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            sessions.append(onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[_PROVIDER]))
        except Exception as why:
            raise (Unrunnable if sessions else ValueError)(str(why)) from why
    worst, ran, last = 0.0, False, Exception()
    tries = [*product((False,), _IMAGES), *product((True,), _SOUNDS)]
    for of_sound, (batch, side, scale) in tries:
        if of_sound and ran:
            break
        feed = fed(sessions[0].get_inputs(), batch, side, scale, of_sound=of_sound)
        try:
            before = sessions[0].run(None, feed)
        except Exception as why:  # noqa: BLE001 - other sizes
            last = why
            continue
        try:
            after = sessions[1].run(None, feed)
        except Exception as why:
            raise Unrunnable(str(why)) from why
        ran = True
        worst = max(worst, *(distance(was, now) for was, now in zip(before, after, strict=True)))
    if not ran:
        raise last
    return worst


def distance(was: np.ndarray, now: np.ndarray) -> float:
    """The largest difference as a part of the largest value; infinite for another shape, or new values not finite."""
    if was.shape != now.shape:
        return np.inf
    if was.dtype.kind != "f":
        return 0.0 if np.array_equal(was, now) else 1.0
    finite = np.isfinite(was)
    if not np.isfinite(now[finite]).all():
        return np.inf
    largest = float(np.abs(was[finite]).max(initial=_LEAST))
    return float(np.abs(now[finite] - was[finite]).max(initial=0.0)) / largest


_IMAGES = ((1, 96, 1.0), (2, 64, 1.0), (1, 48, 1.0), (1, 224, 1.0), (1, 96, 0.0), (1, 64, 0.0))
_SOUNDS = ((1, 512, 1.0), (2, 512, 1.0), (1, 576, 1.0), (1, 16_000, 1.0), (1, 512, 0.0), (1, 16_000, 0.0))
_RATE = 16_000


def fed(inputs: list[object], batch: int, side: int, scale: float, *, of_sound: bool) -> dict[str, np.ndarray]:
    """Normal values times `scale`; integers 0 and 1; single floats ascend, as bounds do.

    All open sizes but the first of an input are `side`; `of_sound`: all but the last are the batch, and a single
    integer is a sampling rate.
    """
    generator = np.random.default_rng(123)
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
    feed = {}
    for each in inputs:
        ends = len(each.shape) - 1
        dims = [
            dim if isinstance(dim, int) else batch if (at < ends if of_sound else not at) else side
            for at, dim in enumerate(each.shape)
        ]
        kind = kinds.get(each.type)
        if kind is None:
            integer = {"tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8}
            kind = integer.get(each.type, np.int64)
            drawn = generator.integers(0, 2, dims) if dims or not of_sound else np.asarray(_RATE)
            feed[each.name] = np.asarray(drawn).astype(kind)
        else:
            drawn = scale * generator.normal(size=dims) if dims else _RATE / 16 * len(feed)
            feed[each.name] = np.asarray(drawn).astype(kind)
    return feed


def doubled(model: ModelProto) -> ModelProto:
    """Every float32 of a model made a double: tensors, types, and what is cast to float32."""
    if model.functions:
        raise ValueError("functions")
    del model.graph.value_info[:]
    _double(model.graph)
    return model


def _double(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            _double_attribute(node, attribute)
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def _double_attribute(node: NodeProto, attribute: AttributeProto) -> None:
    if attribute.HasField("t"):
        _widen(attribute.t)
    if attribute.HasField("g"):
        _double(attribute.g)
    if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        held = numpy_helper.from_array(np.array(numbers, np.float64))
        attribute.CopyFrom(helper.make_attribute("value", held))
    elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
        attribute.i = TensorProto.DOUBLE


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), name))


if __name__ == "__main__":
    main()
