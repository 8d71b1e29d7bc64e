"""What the default, verified, costs beside loading and saving with onnx: whole processes, interleaved, medians.

    python -m benchmarks.default_cost FOLDER_OR_MODEL... [--rounds 5]

For each .onnx file given, and below each folder given: `bnfold optimize`, the same with --no-verify, a process that
imports onnx, loads and saves, and one that does this and then creates a default session of the model and of the result
and runs each once: the floor, which nothing is below that runs both models. Prints wall and processor time as multiples
of loading and saving, then the geometric means, those of the default beside the floor too.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import contenders, processes, verification_cost

TIMEOUT = 600.0


def commands(model: Path, folder: Path) -> dict[str, list[str]]:
    """What is measured, by name; the first is what the others are compared with."""
    optimize = [sys.executable, "-m", "bnfold", "optimize", "--overwrite", str(model), str(folder / "out.onnx")]
    copy = [str(model), str(folder / "copy.onnx")]
    return {
        "load+save": [sys.executable, "-m", "benchmarks.contenders", "onnx load + save", *copy],
        "default": optimize,
        "unverified": [*optimize, "--no-verify"],
        "floor": [sys.executable, "-m", "benchmarks.default_cost", "--floor", *copy, str(folder / "out.onnx")],
    }


def floor(model: Path, copy: Path, result: Path) -> None:
    """Load and save with onnx, then create a session of each model and run it once."""
    contenders.PEERS["onnx load + save"][0](str(model), str(copy))
    verification_cost.once(model, result)


def models_in(places: list[Path]) -> Iterator[Path]:
    """The files themselves, and those below folders."""
    for place in places:
        yield from sorted(place.rglob("*.onnx")) if place.is_dir() else [place]


def main() -> None:
    """Measure and print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ratios: dict[tuple[str, str], list[float]] = {}
    for model in models_in(options.places):
        found: dict[str, list[processes.Run]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(options.rounds + 1):
                for name, command in commands(model, Path(folder)).items():
                    run = processes.run(command, timeout=TIMEOUT)
                    found.setdefault(name, []).extend([run] if number or run.failure else [])
        failure = next((run.failure for runs in found.values() for run in runs if run.failure), "")
        if failure:
            print(f"{model.name}: {failure.splitlines()[-1]}", flush=True)
            continue
        told = []
        for what in ("wall", "cpu"):
            median = {name: statistics.median(getattr(run, what) for run in runs) for name, runs in found.items()}
            told.append(f"load+save {what} {median['load+save']:.2f} s")
            ratios.setdefault(("default beside the floor", what), []).append(median["default"] / median["floor"])
            for name in ("default", "unverified", "floor"):
                ratios.setdefault((name, what), []).append(median[name] / median["load+save"])
                told.append(f"{name} {median[name] / median['load+save']:.2f}x")
        print(f"{model.name:32} {', '.join(told)}", flush=True)
    for (name, what), collected in ratios.items():
        print(f"{name}, {what}: geometric mean {statistics.geometric_mean(collected):.2f}x of {len(collected)} models")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--floor"]:
        floor(*map(Path, sys.argv[2:]))
    else:
        main()
