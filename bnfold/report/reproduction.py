"""The command line that makes a run again, from the options in its report.

A keyword of the api and the option of the command line are the same word, so most need no entry here.
"""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

_INVERTED = {"verify": "--no-verify", "freeze": "--no-freeze"}
_SINGULAR = {"input_shapes": "input_shape", "providers": "provider"}
_DEFAULTS: dict[str, Any] = {"seed": 0, "providers": ["cpu"], "proof": "auto", "on_mismatch": "fail"}
_PROOF = {"always": "--proof", "never": "--no-proof"}
_CALIBRATION: dict[str, Any] = {
    "mode": "exact", "statistics": "population", "batch_size": 64, "mean": [0.0], "std": [1.0], "layout": "NCHW"
}  # fmt: skip
_DATA = ("inputs", "recalibrate", "data")


def reproduction(report: Mapping[str, Any]) -> str:
    """The command, quoted for a shell; "" where no command can do it: models or data came from Python."""
    options = dict(report.get("options") or {})
    if report["kind"] == "verify":
        models = [report["reference"], report["candidate"]]
    elif report["kind"] == "optimize" and report["input"]["path"]:
        models = [report["input"]["path"]]
        models += [report["output"]["path"]] if report["output"] and report["output"]["path"] else []
        if len(models) < 2 and not options.get("dry_run"):  # it went back to Python, or ended before there was one
            options["dry_run"] = True
    else:
        return ""
    if any(options.get(name) is True for name in _DATA):
        return ""
    command = _command(report["kind"], options)
    return shlex.join(["bnfold", command, *models, *_spelled(options)])


def _command(kind: str, options: dict[str, Any]) -> str:
    """The command, and `options` without what it does by itself."""
    fold = options.pop("fold", True)
    if kind != "optimize" or fold:
        return kind
    if options.get("recalibrate"):
        options["data"] = options.pop("recalibrate")
        return "recalibrate"
    return "recalibrate" if options.get("statistics_from") else "freeze"


def _spelled(options: Mapping[str, Any]) -> Iterator[str]:
    takes_data = bool(options.get("recalibrate") or options.get("data"))
    for name, value in options.items():
        if name in _INVERTED:
            if not value:
                yield _INVERTED[name]
        elif name == "calibration":
            if takes_data:
                yield from _changed(value or {})
        elif name == "layout":
            yield from _layout(value)
        elif name == "proof" and value in _PROOF:
            yield _PROOF[value]
        elif value != _DEFAULTS.get(name):
            yield from _option(_SINGULAR.get(name, name), value)


def _changed(calibration: Mapping[str, Any]) -> Iterator[str]:
    for name, value in calibration.items():
        if value != _CALIBRATION.get(name):
            joined = ",".join(f"{number:g}" for number in value) if isinstance(value, list) else value
            yield from _option(name, joined)


def _layout(layout: Mapping[str, Any] | None) -> Iterator[str]:
    if layout is None:
        return
    if layout["weights"] != "external":
        yield "--inline"
        return
    yield f"--external-data={layout['name']}" if layout.get("name") else "--external-data"
    yield from _option("size_threshold", layout["size_threshold"])


def _option(name: str, value: Any) -> Iterator[str]:
    """``--name``, ``--name value``, once for each of a list, or ``--name key:value`` for each of a mapping.

    The key "" stands for what has no name of its own.
    """
    spelled = f"--{name.replace('_', '-')}"
    if value is True:
        yield spelled
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (spelled, f"{key}:{_scalar(item)}" if key else _scalar(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from (spelled, _scalar(item))
    elif value is not None and value is not False:
        yield from (spelled, _scalar(value))


def _scalar(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
