"""The arguments of the ordinary command that does a job, and which options may come from another machine."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError
from bnfold.options import COMMANDS, Options, options_of
from bnfold.service.settings import Settings

REPORTS = {"json": "report.json", "html": "report.html", "md": "report.md", "xml": "report.xml"}
"""The file of each form of a job's report."""

_FIXED = {"strict_external_data": True}
_OF_A_SLOT = {"threads": 1}
"""Defaults of a job's options that differ from the command line's: jobs run side by side."""
_LEFT_OUT = frozenset({"dry_run", "keep_failed", "checksums", "distributions", "progress", "fold", "calibration"})
PRINTING = frozenset({"inspect"})
"""The commands whose report is what they print."""


def options_class(command: str) -> type[Options]:
    """The class of the command's options; substituting is a way to optimize. Raises UsageError for no command."""
    name = "optimize" if command == "substitute" else command
    if name not in COMMANDS:
        raise UsageError(f"command is one of {', '.join([*COMMANDS, 'substitute'])}, not {command!r}")
    return COMMANDS[name]


def canonical(command: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not at their defaults, as plain JSON: the same request is always the same.

    Raises UsageError for unknown options and for what may not come from another machine: files and code of this one.
    """
    kind = options_class(command)
    refused = sorted(name for name in options if name in _LEFT_OUT)
    if refused:
        raise UsageError(f"option {refused[0]!r} is not for jobs of a service")
    made = kind.from_dict(dict(options), remote=True)
    found = made.changed()
    if command == "substitute" and not found.get("substitute"):
        raise UsageError(
            "substitute takes the option 'substitute': group-norm, group-norm:G, instance-norm or layer-norm"
        )
    if command == "optimize" and found.get("substitute"):
        raise UsageError("another normalization is asked for by the command substitute")
    layout = found.get("layout")
    if layout and layout.get("name") and Path(layout["name"]).name != layout["name"]:
        raise UsageError("layout.name is the name of a file, without folders")
    return found


def offered(command: str) -> list[dict[str, Any]]:
    """The options of a command for a person who chooses: name, help, default and kind of value."""
    return [
        {
            "name": each.name,
            "help": each.help,
            "default": kind_plain(each.kind, each.default),
            "kind": type(each.kind).__name__.lower(),
            "choices": list(getattr(each.kind, "choices", ())),
        }
        for each in options_of(options_class(command))
        if each.help and each.remote and each.name not in _LEFT_OUT and each.name not in _FIXED
    ]


def kind_plain(kind: Any, value: Any) -> Any:
    """A default as plain JSON."""
    return None if value is None else kind.plain(value)


def report_forms(command: str) -> tuple[str, ...]:
    """The forms in which a job of the command leaves its report here."""
    if command in PRINTING:
        return ("json",)
    return tuple(form for form in REPORTS if form != "html" or importlib.util.find_spec("matplotlib"))


def arguments_of(
    command: str,
    options: Mapping[str, Any],
    paths: Mapping[str, Path],
    output: Path | None,
    folder: Path,
    settings: Settings,
    sha256: str | None = None,
) -> list[str]:
    """The words behind `bnfold`: the command, its models, its options, limits, and the paths of its reports.

    `sha256` is that of the model which is read, as it was received.
    """
    kind = options_class(command)
    own = {name: value for name, value in _FIXED.items() if _has(kind, name)}
    slot = {name: value for name, value in _OF_A_SLOT.items() if _has(kind, name)}
    made = kind.from_dict({**slot, **options, **own}, remote=True)
    models = [str(paths["reference"]), str(paths["candidate"])] if command == "verify" else [str(paths["model"])]
    words = ["optimize" if command == "substitute" else command, "--isolated", *models]
    words += [str(output)] if output is not None else []
    words += ["--data", str(paths["data"])] if "data" in paths else []
    words += kind.words(made.to_dict())
    words += ["--known-sha256", sha256] if sha256 is not None and output is not None else []
    words += ["--timeout", f"{settings.job_timeout:g}", "--max-memory", str(settings.job_memory)]
    if command in PRINTING:
        return [*words, "--json"]
    words += ["--progress", "json"] if output is not None else []
    for form in report_forms(command):
        words += ["--report", str(folder / REPORTS[form])]
    return words


def _has(kind: type[Options], name: str) -> bool:
    return any(each.name == name for each in options_of(kind))
