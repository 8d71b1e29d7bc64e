"""Latency of what exporters write: python -m benchmarks.exported_latency [--peers PYTHON] [--threads 1 2] [--json F].

Each network is exported by PyTorch, given to bnfold, to bnfold without `fold-constants` and to each peer, and run in
onnxruntime with all of its optimizations and with none: rounds that take turns, medians, and how many times faster than
the original. `--peers` is the interpreter of an environment that has the peers (onnxsim, onnxslim, onnxscript,
onnxruntime), which need not be that of bnfold. Networks whose package is not installed are named and skipped. `--export
NAME FILE` only writes one network.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.contenders import APART, PEERS
from benchmarks.latency import ROUNDS, THREADS, Times, latencies, table

_INPUT = (1, 3, 224, 224)
OWN = {"bnfold": (), "bnfold --no-fold-constants": ("--no-fold-constants",)}


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
    for contender in (each for each in PEERS if peers and each not in APART):
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


def main() -> None:
    """Export, optimize, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exported_latency", description=__doc__)
    parser.add_argument("--peers", default="", metavar="PYTHON")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--json", type=Path, help="write the raw numbers there")
    parser.add_argument("--export", nargs=2, metavar=("NAME", "FILE"), help="write this network and do nothing else")
    chosen = parser.parse_args()
    if chosen.export is not None:
        export(chosen.export[0], Path(chosen.export[1]))
        return
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
    print(table(found))
    if chosen.json is not None:
        rows = [
            {"network": name, "contender": contender, "threads": count, "optimizations": level, "seconds": seconds}
            for name, times in found.items()
            for (contender, count, level), seconds in times.items()
        ]
        chosen.json.write_text(json.dumps({"onnxruntime": onnxruntime.__version__, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
