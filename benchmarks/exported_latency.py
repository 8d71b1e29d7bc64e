"""Latency of what exporters write: python -m benchmarks.exported_latency [--peers PYTHON] [--threads 1 2] [--json F].

Each network is exported by PyTorch, given to bnfold, to bnfold without `fold-constants` and to each peer, and run in
onnxruntime with all of its optimizations and with none: rounds that take turns, medians, and how many times faster than
the original. `--peers` is the interpreter of an environment that has the peers (onnxsim, onnxslim, onnxscript,
onnxruntime), which need not be that of bnfold. Networks whose package is not installed are named and skipped.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.contenders import PEERS
from benchmarks.latency import LEVELS

_INPUT = (1, 3, 224, 224)
OWN = {"bnfold": (), "bnfold --no-fold-constants": ("--no-fold-constants",)}
# By contender, threads and level: seconds.
Times = dict[tuple[str, int, str], float]


def mobilenet() -> Any:
    """MobileNetV2 of pytorchcv, with Relu6."""
    from pytorchcv.models.mobilenetv2 import mobilenetv2_w1

    return mobilenetv2_w1()


def shufflenet() -> Any:
    """ShuffleNetV2 of pytorchcv."""
    from pytorchcv.models.shufflenetv2 import shufflenetv2_w1

    return shufflenetv2_w1()


def levit() -> Any:
    """LeViT of transformers, with random weights."""
    from torch import nn
    from transformers import LevitConfig, LevitForImageClassification

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = LevitForImageClassification(LevitConfig())

        def forward(self, x: Any) -> Any:
            return self.network(pixel_values=x).logits

    return Logits()


NETWORKS: Mapping[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "MobileNetV2, dynamo": (mobilenet, {"dynamo": True, "optimize": False, "external_data": False}),
    "LeViT, dynamo": (levit, {"dynamo": True, "optimize": False, "external_data": False}),
    "LeViT, TorchScript": (levit, {"dynamo": False}),
    "ShuffleNetV2, TorchScript": (shufflenet, {"dynamo": False, "do_constant_folding": False}),
}


def export(name: str, path: Path) -> None:
    """Write a network as PyTorch exports it."""
    import torch

    make, how = NETWORKS[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(make().eval(), (torch.randn(_INPUT),), str(path), **how)


def made_by_all(source: Path, peers: str) -> dict[str, Path]:
    """The original and what each contender makes of it; who fails is left out."""
    made = {"original": source}
    for contender, flags in OWN.items():
        made[contender] = source.with_name(f"{len(made)}.onnx")
        command = [sys.executable, "-m", "bnfold", "optimize", "-q", "--no-verify", *flags]
        subprocess.run([*command, str(source), str(made[contender])], check=True)
    for contender in PEERS if peers else ():
        target = source.with_name(f"{len(made)}.onnx")
        command = [peers, "-m", "benchmarks.contenders", contender, str(source), str(target)]
        done = subprocess.run(command, check=False, capture_output=True)
        if contender == "onnx load + save":
            continue
        if done.returncode or not target.exists():
            print(f"{contender} failed: {done.stderr.decode('utf-8', 'replace').strip()[-100:]}")
        else:
            made[contender] = target
    return made


def latencies(paths: Mapping[str, Path], threads: list[int], rounds: int) -> Times:
    """The median seconds of one inference, for each contender, number of threads and level of optimization."""
    feed = np.random.default_rng(0).standard_normal(_INPUT).astype(np.float32)
    sessions = {}
    for contender, path in paths.items():
        for count in threads:
            for level, value in LEVELS.items():
                options = onnxruntime.SessionOptions()
                options.graph_optimization_level = value
                options.intra_op_num_threads = count
                options.log_severity_level = 3
                session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                sessions[contender, count, level] = session
    times: dict[tuple[str, int, str], list[float]] = {key: [] for key in sessions}
    for number in range(rounds + 2):
        for key, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: feed})
            if number >= 2:
                times[key].append(time.perf_counter() - start)
    return {key: statistics.median(seconds) for key, seconds in times.items()}


def table(found: Mapping[str, Times], threads: list[int]) -> str:
    """Markdown: milliseconds, and how many times faster than the original; the geometric mean last."""
    contenders = list(dict.fromkeys(contender for times in found.values() for contender, _, _ in times))
    settings = [(count, level) for count in threads for level in LEVELS]
    lines = []
    for count, level in settings:
        lines += ["", f"Optimizations {level}, {count} threads:", "", f"| |{'|'.join(contenders)}|"]
        lines.append("|---|" + "---:|" * len(contenders))
        gains: dict[str, list[float]] = {contender: [] for contender in contenders}
        for name, times in found.items():
            cells = []
            for contender in contenders:
                seconds = times.get((contender, count, level))
                gain = None if seconds is None else times["original", count, level] / seconds
                cells.append("" if seconds is None else f"{1000 * seconds:.2f} ({gain:.2f}x)")
                gains[contender] += [] if gain is None else [gain]
            lines.append(f"| {name} |{'|'.join(cells)}|")
        means = (math.exp(statistics.fmean(map(math.log, each))) if each else math.nan for each in gains.values())
        lines.append(f"| geometric mean |{'|'.join(f'{mean:.2f}x' for mean in means)}|")
    return "\n".join(lines)


def main() -> None:
    """Export, optimize, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exported_latency", description=__doc__)
    parser.add_argument("--peers", default="", metavar="PYTHON")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--json", type=Path, help="write the raw numbers there")
    chosen = parser.parse_args()
    found: dict[str, Times] = {}
    for name in (name for name in NETWORKS if chosen.only.lower() in name.lower()):
        with tempfile.TemporaryDirectory(prefix="bnfold-benchmark-") as folder:
            source = Path(folder) / "original.onnx"
            try:
                export(name, source)
            except ImportError as error:
                print(f"skipped: {name}: {error}")
                continue
            found[name] = latencies(made_by_all(source, chosen.peers), chosen.threads, chosen.rounds)
    print(table(found, chosen.threads))
    if chosen.json is not None:
        rows = [
            {"network": name, "contender": contender, "threads": count, "optimizations": level, "seconds": seconds}
            for name, times in found.items()
            for (contender, count, level), seconds in times.items()
        ]
        chosen.json.write_text(json.dumps({"onnxruntime": onnxruntime.__version__, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
