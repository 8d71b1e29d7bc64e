"""Constant gains and biases right behind a linear operator, before and after: python -m benchmarks.left_behind FILE...

A FILE is a model, or the name of an installed distribution, which stands for all models in it. Counted are Mul, Div,
Add and Sub by a stored constant of one number or of one per channel, on what a Conv or Gemm with stored weights makes,
perhaps behind Cast, Identity and Transpose, where nothing else reads that: each could be part of that weight or bias.
Beside them the normalizations that are left.
Nothing here uses the code that folds.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto

from bnfold.equivalence.structure.signature import every_node


def main(names: list[str]) -> None:
    """A line for each model."""
    for path in (path for name in names for path in models(name)):
        with tempfile.TemporaryDirectory(prefix="bnfold-left-") as folder:
            made = Path(folder) / "made.onnx"
            command = [sys.executable, "-m", "bnfold", "optimize", "-q", str(path), str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            after = counted(made) if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]
        print(f"{path.name}: {counted(path)}; after: {after}", flush=True)


def models(name: str) -> list[Path]:
    """The file, or those of a distribution."""
    if Path(name).exists():
        return [Path(name)]
    try:
        found = files(name) or []
    except PackageNotFoundError:
        sys.exit(f"{name} is no file, and no distribution of that name is installed")
    return [Path(str(each.locate())) for each in found if each.suffix == ".onnx"]


def counted(path: Path) -> str:
    """What is left, in words."""
    model = onnx.load(path)
    nodes = [node for body in (model.graph, *model.functions) for node in every_node(body)]
    norms = sum(node.op_type == "BatchNormalization" for node in nodes)
    return f"{len(left_behind(model.graph))} gains and biases, {norms} BatchNormalization"


def left_behind(graph: GraphProto) -> list[str]:
    """The outputs of those in the main graph."""
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            shapes[node.output[0]] = list(node.attribute[0].t.dims)
    shapes = {name: dims for name, dims in shapes.items() if name not in {value.name for value in graph.input}}
    makers = {name: node for node in graph.node for name in node.output}
    reads = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    found = []
    for node in graph.node:
        if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(node.input) != 2:
            continue
        for data, constant in (node.input, node.input[::-1]):
            maker, turns = makers.get(data), list[list[int]]()
            alone = reads.count(data) == 1
            while maker is not None and maker.op_type in ("Cast", "Identity", "Transpose"):
                if maker.op_type == "Transpose":
                    turns.insert(0, next((list(each.ints) for each in maker.attribute if each.name == "perm"), []))
                alone = alone and reads.count(maker.input[0]) == 1
                maker = makers.get(maker.input[0])
            if maker is not None and constant in shapes and alone:
                divides = node.op_type == "Div" and constant == node.input[0]
                if not divides and _fits(maker, turns, shapes[constant], shapes):
                    found.append(node.output[0])
    return found


def _fits(maker: NodeProto, turns: list[list[int]], dims: list[int], shapes: dict[str, list[int]]) -> bool:
    """Whether a constant of `dims` is one number, or one per channel of what a Conv or Gemm makes, its axes turned."""
    if maker.op_type not in ("Conv", "Gemm") or any(name and name not in shapes for name in maker.input[1:]):
        return False
    weight = shapes[maker.input[1]]
    turned = any(each.name == "transB" and each.i for each in maker.attribute)
    rank = len(weight)
    channels = weight[0 if maker.op_type == "Conv" or turned else 1]
    if len(dims) > rank:
        return False
    own = 1
    for turn in turns:
        own = turn.index(own) if turn else rank - 1 - own
    aligned = [1] * (rank - len(dims)) + dims
    return all(size == 1 or (size == channels and axis == own) for axis, size in enumerate(aligned))


if __name__ == "__main__":
    main(sys.argv[1:])
