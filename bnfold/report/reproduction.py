"""The command line that makes a run again, from the options in its report."""

import shlex
from collections.abc import Mapping
from typing import Any

from bnfold.options import COMMANDS, OptimizeOptions, Options, options_of

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
    if any(options.get(name) is True for name in _FROM_PYTHON):
        return ""
    command = _command(report["kind"], options)
    return shlex.join(["bnfold", command, *models, *COMMANDS[command].words(options)])


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
