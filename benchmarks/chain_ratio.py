"""How long reading + folding + writing a chain takes, in multiples of `onnx.load` + `onnx.save`, and how it grows.

    python -m benchmarks.chain_ratio [--channels 16] [--kernel 3] [--rounds 7]

Chains of Conv, BatchNormalization and Relu with 5,000, 10,000 and 20,000 nodes; everything in one process, the two
alternating, processor time, medians over the rounds.
"""

import argparse
import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

import bnfold

SIZES = (5_000, 10_000, 20_000)


def chain(nodes: int, channels: int, kernel: int) -> ModelProto:
    """Conv, BatchNormalization, Relu, and again; weights [channels, channels, kernel, kernel], float32."""
    rng = np.random.default_rng(0)
    made, stored, value = [], [], "x"
    for i in range(nodes // 3):
        weight = rng.normal(size=(channels, channels, kernel, kernel)) / (channels * kernel)
        arrays = {
            "w": weight,
            **{name: rng.normal(size=channels) for name in "sbm"},
            "v": rng.uniform(0.5, 2, channels),
        }
        stored += [numpy_helper.from_array(array.astype(np.float32), f"{name}{i}") for name, array in arrays.items()]
        parameters = [f"{name}{i}" for name in "sbmv"]
        padding = [kernel // 2] * 4
        made += [
            helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], f"conv{i}", pads=padding),
            helper.make_node("BatchNormalization", [f"c{i}", *parameters], [f"n{i}"], f"bn{i}"),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"], f"relu{i}"),
        ]
        value = f"r{i}"
    ends = [helper.make_tensor_value_info(name, 1, ["N", channels, 8, 8]) for name in ("x", value)]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def spent(work: Callable[[], object]) -> float:
    """Processor seconds of this process."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def fold(source: Path, output: Path) -> None:
    """Only fold, and write over what was made of another chain."""
    bnfold.optimize(source, output, verify=False, overwrite=True)


def main() -> None:
    """Measure and print one line per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    found: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for nodes in SIZES:
            source, output = folder / f"{nodes}.onnx", folder / "out.onnx"
            onnx.save(chain(nodes, options.channels, options.kernel), source)
            rounds = [
                (
                    spent(lambda source=source: onnx.save(onnx.load(source), folder / "copy.onnx")),
                    spent(lambda source=source, output=output: fold(source, output)),
                )
                for _ in range(options.rounds)
            ]
            copying, folding = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratio = statistics.median(ours / theirs for theirs, ours in rounds)
            found[nodes] = folding
            told = f"load+save {copying:.2f} s, bnfold {folding:.2f} s, ratio {ratio:.1f}"
            print(f"{nodes:6,} nodes, {source.stat().st_size / 1e6:6.1f} MB: {told}")
    print(f"growth exponent: {math.log(found[SIZES[-1]] / found[SIZES[0]]) / math.log(SIZES[-1] / SIZES[0]):.2f}")


if __name__ == "__main__":
    main()
