"""Results as Markdown, with the raw numbers beside it as JSON, and bars as SVG where matplotlib is installed."""

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import geometric_mean

from benchmarks.contenders import COPIES, PEERS, installed, interpreters
from benchmarks.processes import Measured, Run

PACKAGES = ("bnfold", "numpy", "onnx", "onnxruntime", "onnxsim", "onnxslim", "onnxoptimizer", "onnxscript", "protobuf")
_HOW = """\
Whole processes from start to end, interleaved, medians; page caches are warm. Nobody verifies: bnfold runs with
`--no-verify`. The peers do other things besides folding, and fold in fewer places: of quark its two folds ran, which
know ConvTranspose, Gemm and Concat and leave Conv to onnxruntime. cp does not wait for the disk, bnfold does, as cp +
sync. Memory counts mapped pages of the input, too."""
_LATENCY = """\
Milliseconds per inference in onnxruntime of what each contender made, and how many times faster that is than the model
as it was (cp); rounds in turns, medians. onnx load + save changes nothing: what it differs by is noise."""
_AHEAD = 1.05
"""So many times faster is no noise."""


@dataclass
class Results:
    """What was asked, for each call, and what was found: costs by model and contender, BatchNormalizations that
    remained by model and contender, latencies by model: contender, threads, level and seconds.
    """

    arguments: list[list[str]]
    costs: dict[str, dict[str, Measured]] = field(default_factory=dict)
    remaining: dict[str, dict[str, int]] = field(default_factory=dict)
    latencies: dict[str, list[tuple[str, int, str, float]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    """The load of the machine, as `os.getloadavg` gives it for the last minute, before each model and in the end."""

    def to_json(self) -> str:
        """All of it, every single run included, and what it was made with."""
        found = asdict(self) | {"arguments": [_portable(each) for each in self.arguments]}
        return json.dumps({"machine": _machine(), "packages": _packages(), **found}, indent=1)

    def add(self, path: Path) -> None:
        """Add what an earlier call left in the JSON beside `path`."""
        raw = path.with_suffix(".json")
        if not raw.exists():
            return
        earlier = json.loads(raw.read_text(encoding="utf-8"))
        for name, measured in earlier["costs"].items():
            self.costs[name] = {
                each: Measured([Run(**run) for run in found["runs"]], found["nbytes"])
                for each, found in measured.items()
            }
        self.remaining |= earlier["remaining"]
        self.latencies |= earlier["latencies"]
        self.skipped |= earlier["skipped"]
        self.arguments = [*earlier["arguments"], *self.arguments]
        self.loads = [*earlier["loads"], *self.loads]

    def sort(self, names: Sequence[str]) -> None:
        """Put the models into the order of `names`."""
        self.costs = {name: self.costs[name] for name in names if name in self.costs}
        self.remaining = {name: self.remaining[name] for name in names if name in self.remaining}
        self.latencies = {name: self.latencies[name] for name in names if name in self.latencies}


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
    calls = dict.fromkeys(shlex.join(["python", "-m", "benchmarks", *_portable(each)]) for each in results.arguments)
    command = "`, `".join(calls)
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
    return found | {PEERS[each][1]: installed(each) for each in interpreters}


def _portable(arguments: list[str]) -> list[str]:
    """Without where models, environments and results lay meanwhile, which is nobody's business."""
    for option, place in (("--folder", []), ("--output", []), ("--envs", ["DIR"])):
        if option in arguments:
            at = arguments.index(option)
            arguments = [*arguments[:at], *([option, *place] if place else []), *arguments[at + 2 :]]
    return arguments


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
    from benchmarks.latency import table

    lines.append(table(_times(results), COPIES[0]))
    return [*lines, *_remaining(results), ""]


def _times(results: Results) -> dict[str, dict[tuple[str, int, str], float]]:
    return {
        name: {(contender, threads, level): seconds for contender, threads, level, seconds in found}
        for name, found in results.latencies.items()
    }


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
    for name, times in _times(results).items():
        for threads, level in dict.fromkeys((threads, level) for _, threads, level in times):
            own_seconds = times.get(("bnfold", threads, level), 0.0)
            ahead = [
                f"{each} ({own_seconds / seconds:.2f}x)"
                for (each, *setting), seconds in times.items()
                if setting == [threads, level] and each != "bnfold" and seconds < own_seconds / _AHEAD
            ]
            if ahead:
                lines.append(f"- {name}, inference, optimizations {level}, {_count(threads)}: {', '.join(ahead)}")
    return ["## Where peers are ahead", "", *(lines or ["Nowhere in these measurements."])]


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _plots(results: Results, folder: Path) -> list[tuple[str, str]]:
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plots: matplotlib is not installed")
        return []
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bnfold"
    made: list[tuple[str, str]] = []
    if results.latencies:
        _gains(results, folder / "benchmarks-latency.svg")
        title = "Inference: times faster than the model as it was, geometric mean"
        made.append((title, "benchmarks-latency.svg"))
    if not results.costs:
        return made
    for what, label, factor in (("wall", "seconds", 1.0), ("memory", "MB at the peak", 1e-6)):
        name = f"benchmarks-{what}.svg"
        _bars(results.costs, what, label, factor, folder / name)
        made.append((f"Whole processes: {label}", name))
    return made


def _gains(results: Results, path: Path) -> None:
    from matplotlib import pyplot as plt

    from benchmarks.latency import gains

    found = _times(results)
    settings = sorted({(threads, level) for times in found.values() for _, threads, level in times})
    contenders = list(dict.fromkeys(each for times in found.values() for each, _, _ in times))
    figure, axes = plt.subplots(len(settings), 1, figsize=(8, 2 * len(settings)), squeeze=False, layout="constrained")
    for axis, (threads, level) in zip(axes[:, 0], settings, strict=True):
        faster = {each: gains(found, each, COPIES[0], threads, level) for each in contenders}
        means = {each: geometric_mean(own.values()) for each, own in faster.items() if len(own) == len(found)}
        bars = axis.barh(
            list(means), list(means.values()), color=["C1" if each == "bnfold" else "C0" for each in means]
        )
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(f"optimizations {level}, threads: {threads}", fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
        axis.margins(x=0.12)
    axes[-1, 0].set_xlabel("times faster than the model as it was", fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


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
