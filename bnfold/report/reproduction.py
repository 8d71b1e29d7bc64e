"""The command line that makes a run again, from the options in its report."""

import shlex
from collections.abc import Mapping
from typing import Any

from bnfold.options import COMMANDS, OptimizeOptions, Options, is_from_python, options_of

_FROM_PYTHON = ("inputs", "recalibrate", "data")


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
    if any(options.get(name) is True for name in _FROM_PYTHON) or _passes_from_python(options):
        return ""
    command = _command(report["kind"], options)
    return shlex.join(["bnfold", command, *models, *COMMANDS[command].words(options)])


def why_none(report: Mapping[str, Any]) -> str:
    """A sentence where passes are why no command makes a run again, "" elsewhere."""
    found = _passes_from_python(report.get("options") or {})
    if not found:
        return ""
    are = "is a function or an object" if len(found) == 1 else "are functions or objects"
    names = ", ".join(dict.fromkeys(found))
    return f"No command makes it again: {names} {are} of Python that no script.py:function names."


def _passes_from_python(options: Mapping[str, Any]) -> list[str]:
    return [str(each) for each in options.get("passes") or () if is_from_python(str(each))]


def _command(kind: str, options: dict[str, Any]) -> str:
    """The command that has these options; they are made those of that command."""
    if kind != "optimize":
        return kind
    calibration = dict(options.pop("calibration", None) or {})
    if "layout" in calibration:  # a report of before that was called as it is now
        calibration["image_layout"] = calibration.pop("layout")
    if options.pop("fold", True):
        if options.get("recalibrate") or options.get("data"):
            options["calibration"] = calibration
        return kind
    if options.get("recalibrate"):
        options |= {"data": options["recalibrate"], **calibration}
    command = "recalibrate" if options.get("recalibrate") or options.get("statistics_from") else "freeze"
    for name in _names(OptimizeOptions) - _names(COMMANDS[command]):
        options.pop(name, None)
    return command


def _names(options: type[Options]) -> set[str]:
    return {each.name for each in options_of(options)}
