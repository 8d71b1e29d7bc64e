"""What proving every rewrite costs, against running both models on all feeds.

    python -m benchmarks.proof_cost [light graphs such as shufflenet ...]

One line per model: stored numbers of the result, proofs and how they stand, seconds to verify by running and to prove.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto

import bnfold
from bnfold.equivalence import prove, verify
from tests import architectures, light_graphs

MODELS = Path(__file__).parents[1] / "models"
NETWORKS = ("densenet", "mobilenet_v2", "unet", "small_cnn", "mlp", "preact_resnet", "super_resolution", "conv3d")


def models(lights: list[str]) -> Iterator[tuple[str, ModelProto]]:
    """The trained models, exported networks, and the graphs of the onnx wheel that were asked for."""
    for path in sorted(MODELS.glob("*.onnx")):
        if "train" not in path.stem:
            yield path.stem, onnx.load(path)
    for name in (*NETWORKS, "levit"):
        yield name, architectures.exported(name).proto
    for name in lights:
        yield name, light_graphs.light(name)


def main(lights: list[str]) -> None:
    """Measure, print."""
    for name, model in models(lights):
        folded = bnfold.optimize(model, verify=False).model
        numbers = sum(math.prod(tensor.dims) for tensor in folded.graph.initializer)
        start = time.perf_counter()
        verify(model.SerializeToString(), folded.SerializeToString())
        middle = time.perf_counter()
        proofs = prove(model, folded)
        end = time.perf_counter()
        standings = ", ".join(f"{count} {standing}" for standing, count in Counter(p.standing for p in proofs).items())
        print(f"{name:20} {numbers:10} numbers; {standings}; run {middle - start:.2f} s, prove {end - middle:.2f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
