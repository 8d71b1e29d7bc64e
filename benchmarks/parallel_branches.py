"""A network with parallel linear branches, beside what peers make of it: python -m benchmarks.parallel_branches.

A RepVGG-A0 in training form (random weights and statistics) is exported by both exporters of PyTorch; bnfold and the
peers of `benchmarks.contenders` optimize it, each in a process of its own (`--python` names the interpreter that has
the peers); onnxruntime runs what came out as `benchmarks.latency` does. One line for each: the operators, convolutions
and normalizations left, the median time, and how many times bnfold's it is. `--stages`: the time that the kernels of
each operator take in one thread instead, by onnxruntime's profiler; of each node the lower quartile of `--rounds`,
which take turns, so that whatever else the machine does counts little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from benchmarks.contenders import PEERS
from benchmarks.latency import LEVELS

EXPORTERS = ("torchscript", "dynamo-optimized")


def main() -> None:
    """Export, optimize, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel_branches")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--rounds", type=int, default=80)
    chosen = parser.parse_args()
    for exporter in EXPORTERS:
        with tempfile.TemporaryDirectory(prefix="bnfold-branches-") as folder:
            source = Path(folder) / "repvgg_a0.onnx"
            export(exporter, chosen.size, source)
            made = optimized(source, Path(folder), chosen.python)
            if chosen.stages:
                print(f"{exporter}, {chosen.size} x {chosen.size}, one thread")
                stages(made, chosen.rounds, Path(folder))
                continue
            seconds = latencies(list(made.values()))
            print(f"{exporter}, {chosen.size} x {chosen.size}, {os.cpu_count()} cores")
            for name, path in made.items():
                nodes = Counter(node.op_type for node in onnx.load(path).graph.node)
                print(
                    f"  {name:22} {nodes.total():4} nodes  {nodes['Conv']:3} Conv  "
                    f"{nodes['BatchNormalization']:3} BatchNormalization  {1e3 * seconds[str(path)]:7.2f} ms  "
                    f"{seconds[str(path)] / seconds[str(made['bnfold'])]:.2f}",
                    flush=True,
                )


def stages(made: Mapping[str, Path], rounds: int, folder: Path) -> None:
    """Print how long the kernels take, by level of onnxruntime's optimizations, model, operator and size of kernel."""
    for level, optimization in LEVELS.items():
        sessions = {}
        for name, path in made.items():
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level, options.intra_op_num_threads = optimization, 1
            options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
            options.log_severity_level = 3
            sessions[name] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(rounds):
            for session in sessions.values():
                feed = session.get_inputs()[0]
                values = np.random.default_rng(0).standard_normal(
                    [size if isinstance(size, int) else 1 for size in feed.shape]
                )
                session.run(None, {feed.name: values.astype(np.float32)})
        for name, session in sessions.items():
            found = by_operator(Path(session.end_profiling()))
            print(f"  optimizations {level}: {name:22} {sum(time for _, time in found.values()):7.2f} ms")
            for kind, (nodes, time) in sorted(found.items(), key=lambda item: -item[1][1]):
                print(f"    {kind:22} {nodes:4} nodes {time:7.2f} ms", flush=True)


def by_operator(profile: Path) -> dict[str, tuple[int, float]]:
    """By operator, and size of its kernel: the number of nodes, and the milliseconds that they take together."""
    times: dict[tuple[str, str], list[float]] = {}
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            facts = event["args"]
            kind, shapes = facts["op_name"], [next(iter(each.values())) for each in facts["input_type_shape"]]
            if "Conv" in kind:
                kind += " " + "x".join(map(str, shapes[1][2:])) + (", + a sum" if len(shapes) > 3 else "")
            times.setdefault((kind, event["name"]), []).append(event["dur"] / 1000)
    found: dict[str, tuple[int, float]] = {}
    for (kind, _), each in times.items():
        nodes, time = found.get(kind, (0, 0.0))
        found[kind] = nodes + 1, time + float(np.percentile(each, 25))
    return found


def export(exporter: str, size: int, path: Path) -> None:
    """The network as the exporter writes it."""
    import torch

    from tests.architectures import export_module
    from tests.branch_modules import as_if_trained, repvgg_a0

    torch.manual_seed(0)
    path.write_bytes(export_module(as_if_trained(repvgg_a0()), (torch.zeros(2, 3, size, size),), exporter, 18))


def optimized(source: Path, folder: Path, python: str) -> dict[str, Path]:
    """What each made of it; peers that fail are named and left out."""
    made = {"as exported": source}
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for name in ("bnfold", *(peer for peer in PEERS if peer != "onnx load + save")):
        target = folder / f"{name.replace(' ', '_')}.onnx"
        command = [python, "-m", "benchmarks.contenders", name, str(source), str(target)]
        if name == "bnfold":
            command = [sys.executable, "-m", "bnfold", "optimize", "-q", str(source), str(target)]
        done = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
        if done.returncode == 0 and target.exists():
            made[name] = target
        else:
            print(f"  {name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return made


def latencies(paths: list[Path]) -> dict[str, float]:
    """Seconds of the median run, onnxruntime's optimizations on."""
    command = [sys.executable, "-m", "benchmarks.latency", *map(str, paths), "--threads", "0"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {path: seconds for path, _, level, seconds in found if level == "all"}


if __name__ == "__main__":
    main()
