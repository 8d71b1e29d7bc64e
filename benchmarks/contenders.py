"""Who is measured. Each contender is one process: python -m benchmarks.contenders NAME INPUT OUTPUT.

Every one gets a path and leaves a model at another; none verifies what it wrote, so bnfold runs with --no-verify.
"""

import shlex
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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


# How each does it, and the distribution whose version is printed.
PEERS: dict[str, tuple[Callable[[str, str], None], str]] = {
    "onnx load + save": (_onnx, "onnx"),
    "onnxsim": (_onnxsim, "onnxsim"),
    "onnxslim": (_onnxslim, "onnxslim"),
    "onnxoptimizer": (_onnxoptimizer, "onnxoptimizer"),
    "onnxscript rewriter": (_onnxscript, "onnxscript"),
    "onnxruntime offline": (_onnxruntime, "onnxruntime"),
}
# They copy the model and the data files beside it. bnfold waits until the disk has everything, as the second does.
COPIES = ("cp", "cp + sync")
CONTENDERS = (*COPIES, "bnfold", *PEERS)


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
    return [sys.executable, "-m", "benchmarks.contenders", contender, str(source), str(target)]


def missing(contender: str) -> str:
    """Why a contender cannot be measured here; "" where it can."""
    if contender not in PEERS:
        return ""
    try:
        version(PEERS[contender][1])
    except PackageNotFoundError:
        return f"{PEERS[contender][1]} is not installed: pip install '.[benchmarks]'"
    return ""


if __name__ == "__main__":
    PEERS[sys.argv[1]][0](sys.argv[2], sys.argv[3])
