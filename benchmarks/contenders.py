"""Who is measured. Each contender is one process: python -m benchmarks.contenders NAME INPUT OUTPUT.

Every one gets a path and leaves a model at another; none verifies what it wrote, so bnfold runs with --no-verify. Who
needs packages of his own versions runs in an environment of his own.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.environments import environment


def _onnx(source: str, target: str) -> None:
    import onnx

    model = onnx.load(source)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 2**31 - 2**20:  # ByteSize raises there
        onnx.save(model, target, save_as_external_data=True, location=f"{Path(target).name}.data")
    else:
        onnx.save(model, target)


def _onnxsim(source: str, target: str) -> None:
    import onnx
    import onnxsim

    model, _ = onnxsim.simplify(source)
    onnx.save(model, target)


def _onnxslim(source: str, target: str) -> None:
    import onnxslim

    onnxslim.slim(source, target)


def _onnxoptimizer(source: str, target: str) -> None:
    import onnx
    import onnxoptimizer

    passes = ["fuse_bn_into_conv", "fuse_add_bias_into_conv", "eliminate_deadend", "eliminate_unused_initializer"]
    onnx.save(onnxoptimizer.optimize(onnx.load(source), passes), target)


def _onnxscript(source: str, target: str) -> None:
    import onnx
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules import fusion  # noqa: F401 - what `rewrite` applies by default

    onnx.save(rewrite(onnx.load(source)), target)


def _onnxruntime(source: str, target: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = target
    options.log_severity_level = 3
    if Path(source).stat().st_size > 2**30 or any(Path(source).parent.glob(f"{Path(source).stem}.data")):
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "ort.data")
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _aimet(source: str, target: str) -> None:
    import onnx
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

    model = onnx.load(source)
    fold_all_batch_norms_to_weight(model)
    onnx.save(model, target)


def _quark(source: str, target: str) -> None:
    import onnx
    from quark.onnx.optimizations.optimize import Optimizer

    optimizer = Optimizer(onnx.load(source), ["BatchNormalization", "Conv", "ConvTranspose", "Gemm"], None, None)
    optimizer.fold_batch_norm()
    optimizer.fold_batch_norm_after_concat()
    onnx.save(optimizer.model, target)


# How each does it, and the distribution whose version is printed.
PEERS: dict[str, tuple[Callable[[str, str], None], str]] = {
    "onnx load + save": (_onnx, "onnx"),
    "onnxsim": (_onnxsim, "onnxsim"),
    "onnxslim": (_onnxslim, "onnxslim"),
    "onnxoptimizer": (_onnxoptimizer, "onnxoptimizer"),
    "onnxscript rewriter": (_onnxscript, "onnxscript"),
    "onnxruntime offline": (_onnxruntime, "onnxruntime"),
    "aimet-onnx": (_aimet, "aimet-onnx"),
    "quark": (_quark, "amd-quark"),
}
# What is installed for those that have an environment of their own.
APART: dict[str, tuple[str, ...]] = {
    "aimet-onnx": ("aimet-onnx", "torch", "onnx"),
    "quark": ("amd-quark", "torch", "onnx", "onnxruntime"),
}
# They copy the model and the data files beside it. bnfold waits until the disk has everything, as the second does.
COPIES = ("cp", "cp + sync")
CONTENDERS = (*COPIES, "bnfold", *PEERS)


# The interpreters of the environments that were made, by contender.
interpreters: dict[str, Path] = {}


def command(contender: str, source: Path, target: Path) -> list[str]:
    """The process that makes `target` of `source`."""
    if contender in COPIES:
        files = sorted(source.parent.iterdir())
        copy = [shutil.which("cp") or "/bin/cp", *map(str, files), str(target.parent)]
        if contender == "cp":
            return copy
        sync = ["sync", *(str(target.parent / path.name) for path in files), str(target.parent)]
        return ["sh", "-c", f"{shlex.join(copy)} && {shlex.join(sync)}"]
    if contender == "bnfold":
        command = [sys.executable, "-m", "bnfold", "optimize", "-q", "--no-verify", "--overwrite"]
        return [*command, str(source), str(target)]
    python = str(interpreters.get(contender, sys.executable))
    return [python, "-m", "benchmarks.contenders", contender, str(source), str(target)]


def missing(contender: str, environments: Path | None = None) -> str:
    """Why a contender cannot be measured here; "" where it can. Makes its own environment below `environments`."""
    if contender not in PEERS:
        return ""
    if contender in APART and environments is not None:
        try:
            interpreters[contender] = environment(environments / contender, APART[contender])
        except subprocess.CalledProcessError as error:
            return f"pip installs it not: {error}"
        return ""
    try:
        version(PEERS[contender][1])
    except PackageNotFoundError:
        how = "give --envs" if contender in APART else "pip install '.[benchmarks]'"
        return f"{PEERS[contender][1]} is not installed: {how}"
    return ""


def installed(contender: str) -> str:
    """The version of a contender in the environment that it runs in."""
    distribution = PEERS[contender][1]
    if contender not in interpreters:
        return version(distribution)
    asked = f"from importlib.metadata import version; print(version({distribution!r}))"
    done = subprocess.run([interpreters[contender], "-c", asked], check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    PEERS[sys.argv[1]][0](sys.argv[2], sys.argv[3])
