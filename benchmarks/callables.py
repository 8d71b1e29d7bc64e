"""What a function that changes one weight of a large model costs as a pass, in each form that it may take a model in.

    python -m benchmarks.callables [NAME of benchmarks.models]

One line per form: seconds of `bnfold optimize --no-verify --pass callables.py:FUNCTION`, as a multiple of the seconds
of a copy that waits for the disk, processor seconds, and the most memory of the process; each in its own process, the
median of three runs that take turns. What every function does is to add 1 to the first number of the first weight: the
last column counts the bytes in which the result differs. A function that takes a whole ModelProto holds all weights.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the functions run inside of what is measured
    import onnx
    import onnx_graphsurgeon as gs
    import onnx_ir as ir

FORMS = ("on_demand", "graphsurgeon", "onnx_ir_model", "whole")
RUNS = 3


def on_demand(model: "onnx.ModelProto", base_dir: str) -> None:
    """A ModelProto whose weights stay in their file."""
    from onnx import numpy_helper

    weight = model.graph.initializer[0]
    values = numpy_helper.to_array(weight, base_dir).copy()
    values.flat[0] += 1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def graphsurgeon(graph: "gs.Graph") -> None:
    """An onnx_graphsurgeon.Graph."""
    weight = next(value for node in graph.nodes for value in node.inputs if type(value).__name__ == "Constant")
    values = weight.values.copy()
    values.flat[0] += 1
    weight.values = values


def onnx_ir_model(model: "ir.Model") -> None:
    """An onnx_ir.Model."""
    import onnx_ir

    weight = next(iter(model.graph.initializers.values()))
    assert weight.const_value is not None
    values = weight.const_value.numpy().copy()
    values.flat[0] += 1
    weight.const_value = onnx_ir.tensor(values, name=weight.name)


def whole(model: "onnx.ModelProto") -> None:
    """A ModelProto as it is."""
    from onnx import numpy_helper

    weight = model.graph.initializer[0]
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def main(name: str) -> None:
    """Make the model, take turns, print; what is large happens in processes whose memory counts from this one's."""
    from benchmarks.contenders import command
    from benchmarks.processes import Run, run

    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "in/model.onnx", Path(place) / "out/model.onnx"
        source.parent.mkdir()
        target.parent.mkdir()
        made = run([sys.executable, "-m", "benchmarks.models", name, str(source)], timeout=600)
        if made.failure:
            sys.exit(made.failure)
        words = [sys.executable, "-m", "bnfold", "optimize", "-q", "--no-verify", "--overwrite", "--pass"]
        commands = {"cp + sync": command("cp + sync", source, target)}
        commands |= {form: [*words, f"{__file__}:{form}", str(source), str(target)] for form in FORMS}
        runs: dict[str, list[Run]] = {each: [] for each in commands}
        bytes_changed = {}
        for _ in range(RUNS):
            for each, words in commands.items():
                one = run(words, timeout=600)
                if one.failure:
                    sys.exit(f"{each}: {one.failure}")
                runs[each].append(one)
                told = [sys.executable, "-m", "benchmarks.callables", "--differ", str(source), str(target)]
                bytes_changed[each] = subprocess.run(told, check=True, capture_output=True, text=True).stdout.strip()

    def median(form: str, what: str) -> Any:
        return statistics.median(getattr(one, what) for one in runs[form])

    copied = median("cp + sync", "wall")
    for each in commands:
        wall, cpu, memory = (median(each, what) for what in ("wall", "cpu", "memory"))
        print(
            f"{each:14} {wall:6.2f} s, {wall / copied:4.2f} of a durable copy, {cpu:5.2f} s of processor time, "
            f"{memory / 1e6:6.0f} MB, {bytes_changed[each]} bytes differ"
        )


def different(one: Path, other: Path) -> int:
    """In how many bytes two files of the same length differ."""
    import numpy as np

    first, second = (np.memmap(path, np.uint8, "r") for path in (one, other))
    if first.size != second.size:
        raise ValueError(f"{first.size} and {second.size} bytes")
    step = 1 << 24
    return sum(
        int(np.count_nonzero(first[start : start + step] != second[start : start + step]))
        for start in range(0, first.size, step)
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--differ"]:
        print(different(Path(sys.argv[2]), Path(sys.argv[3])))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else "1 GB inline")
