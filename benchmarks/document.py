"""Results as Markdown, with the raw numbers beside it as JSON, and bars as SVG where matplotlib is installed."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.contenders import COPIES
from benchmarks.processes import Measured

PACKAGES = ("bnfold", "numpy", "onnx", "onnxruntime", "onnxsim", "onnxslim", "onnxoptimizer", "onnxscript", "protobuf")
_HOW = """\
Whole processes from start to end, interleaved, medians; page caches are warm. Nobody verifies: bnfold runs with
`--no-verify`. The peers do other things besides folding, and fold in fewer places. cp does not wait for the disk,
bnfold does, as cp + sync. Memory counts mapped pages of the input, too."""
_LATENCY = """\
Milliseconds per inference in onnxruntime, all its optimizations on / off, of what each contender made. cp is the model
as it was."""


@dataclass
class Results:
    """What was asked and what was found: costs by model and contender, BatchNormalizations that remained by model and
    contender, latencies by model, contender and level.
    """

    arguments: list[str]
    costs: dict[str, dict[str, Measured]] = field(default_factory=dict)
    remaining: dict[str, dict[str, int]] = field(default_factory=dict)
    latencies: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    """The load of the machine, as `os.getloadavg` gives it for the last minute, before each model and in the end."""

    def to_json(self) -> str:
        """All of it, every single run included, and what it was made with."""
        found = asdict(self) | {"arguments": _portable(self.arguments)}
        return json.dumps({"machine": _machine(), "packages": _packages(), **found}, indent=1, sort_keys=True)


def write(results: Results, path: Path | None) -> None:
    """Write everything to `path`, or show it."""
    text = "\n".join([*_head(results), *_costs(results), *_latencies(results), *_behind(results), ""])
    if path is None:
        print(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    plots = _plots(results, path.parent)
    raw = path.with_suffix(".json")
    raw.write_text(results.to_json() + "\n", encoding="utf-8")
    text += f"\nEvery single run is in [{raw.name}]({raw.name}).\n"
    path.write_text(text + "".join(f"\n![{title}]({name})\n" for title, name in plots), encoding="utf-8")
    print(f"written: {path}")


def _head(results: Results) -> list[str]:
    command = " ".join(["python -m benchmarks", *_portable(results.arguments)])
    packages = ", ".join(f"{name} {number}" for name, number in _packages().items())
    load = f"; load of the machine {min(results.loads):.1f} to {max(results.loads):.1f}" if results.loads else ""
    lines = [
        "# Benchmarks",
        "",
        (f"Made by `{command}` on {_machine()}; {packages}{load}."),
        "",
        _HOW,
        "",
    ]
    lines += [f"- {contender} was left out: {reason}" for contender, reason in results.skipped.items()]
    return lines


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores of {_processor()} with {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _packages() -> dict[str, str]:
    """The versions of what was measured, and of what it rests on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _portable(arguments: list[str]) -> list[str]:
    """Without where the models lay meanwhile, which is nobody's business."""
    if "--folder" not in arguments:
        return arguments
    place = arguments.index("--folder")
    return arguments[:place] + arguments[place + 2 :]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _costs(results: Results) -> list[str]:
    lines = []
    for name, measured in results.costs.items():
        lines += [f"## {name}", "", "| | wall | processor | memory | written | BatchNormalization left |"]
        lines.append("|---|---:|---:|---:|---:|---:|")
        for contender, found in measured.items():
            if found.failure:
                reason = found.failure.splitlines()[-1][:100].replace("|", "\\|")
                lines.append(f"| {contender} | failed: {reason} | | | | |")
            else:
                wall, cpu, memory = (found.median(what) for what in ("wall", "cpu", "memory"))
                written = f"{found.nbytes / 1e6:,.1f} MB"
                left = results.remaining[name][contender]
                lines.append(
                    f"| {contender} | {wall:.2f} s | {cpu:.2f} s | {memory / 1e6:,.0f} MB | {written} | {left} |"
                )
        lines.append("")
    return lines


def _latencies(results: Results) -> list[str]:
    if not results.latencies:
        return []
    lines = [
        "## Inference",
        "",
        _LATENCY,
        "",
    ]
    contenders = list(dict.fromkeys(each for found in results.latencies.values() for each in found))
    lines += ["| |" + "|".join(contenders) + "|", "|---|" + "---:|" * len(contenders)]
    for name, found in results.latencies.items():
        cells = [
            f"{1000 * found[each]['all']:.2f} / {1000 * found[each]['off']:.2f}" if each in found else ""
            for each in contenders
        ]
        lines.append(f"| {name} |" + "|".join(cells) + "|")
    return [*lines, *_remaining(results), ""]


def _remaining(results: Results) -> list[str]:
    """What was left to compute in the models whose time alone was measured."""
    names = [name for name in results.latencies if name not in results.costs]
    if not names:
        return []
    contenders = list(dict.fromkeys(each for name in names for each in results.remaining[name]))
    lines = ["", "BatchNormalizations that were left in the model:", ""]
    lines += ["| |" + "|".join(contenders) + "|", "|---|" + "---:|" * len(contenders)]
    for name in names:
        cells = [str(results.remaining[name].get(each, "")) for each in contenders]
        lines.append(f"| {name} |" + "|".join(cells) + "|")
    return lines


def _behind(results: Results) -> list[str]:
    """Where somebody else is better than bnfold: in time, in memory, or in what the result costs."""
    lines = []
    for name, measured in results.costs.items():
        if measured["bnfold"].failure:
            continue
        for what, unit in (("wall", "time"), ("memory", "memory")):
            own = measured["bnfold"].median(what)
            ahead = [
                f"{each} ({own / found.median(what):.1f} times less)"
                for each, found in measured.items()
                if each not in (*COPIES, "bnfold") and not found.failure and found.median(what) < own
            ]
            if ahead:
                lines.append(f"- {name}, {unit}: {', '.join(ahead)}")
    for name, latencies in results.latencies.items():
        own_latency = latencies.get("bnfold", {}).get("all", 0.0)
        ahead = [each for each, found in latencies.items() if each != "bnfold" and found["all"] < own_latency / 1.05]
        if ahead:
            lines.append(f"- {name}, inference with all optimizations: {', '.join(ahead)}")
    return ["## Where peers are ahead", "", *(lines or ["Nowhere in these measurements."])]


def _plots(results: Results, folder: Path) -> list[tuple[str, str]]:
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plots: matplotlib is not installed")
        return []
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bnfold"
    made: list[tuple[str, str]] = []
    if not results.costs:
        return made
    for what, label, factor in (("wall", "seconds", 1.0), ("memory", "MB at the peak", 1e-6)):
        name = f"benchmarks-{what}.svg"
        _bars(results.costs, what, label, factor, folder / name)
        made.append((f"Whole processes: {label}", name))
    return made


def _bars(costs: Mapping[str, Mapping[str, Measured]], what: str, label: str, factor: float, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(costs), 1, figsize=(8, 1.6 * len(costs)), squeeze=False, layout="constrained")
    for axis, (name, measured) in zip(axes[:, 0], costs.items(), strict=True):
        good = {each: found.median(what) * factor for each, found in measured.items() if not found.failure}
        bars = axis.barh(list(good), list(good.values()), color=["C1" if each == "bnfold" else "C0" for each in good])
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(name, fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
        axis.margins(x=0.12)
    axes[-1, 0].set_xlabel(label, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
