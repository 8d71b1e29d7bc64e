"""The work on one model, in whatever process it happens."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bnfold import api
from bnfold.errors import BnfoldError, OutputError, ResourceLimitError
from bnfold.fleet.task import Row, Task
from bnfold.options import COMMANDS, Options
from bnfold.report import ComparisonReport

_BUG = 70


def done(task: Task) -> Row:
    """Do what a task says; whatever happens becomes a row."""
    begun = time.monotonic()
    message, code, found = "", 0, None
    try:
        found = _report(task)
        code = int(found.get("exit_code") or 0)
        message = str(found.get("explanation") or "")
    except BnfoldError as error:
        report = getattr(error, "report", None)
        found = report.to_dict() if report is not None else None
        message, code = str(error), error.exit_code
    except MemoryError:
        message, code = "out of memory: allow more, or use a machine that has more", ResourceLimitError.exit_code
    except OSError as error:
        message, code = f"{error.strerror or error}", OutputError.exit_code
    except Exception as error:  # noqa: BLE001 - one model takes nobody with it
        message, code = f"this is a bug in bnfold, please report it: {type(error).__name__}: {error}", _BUG
    written = _write(task, found)
    return Row(
        task.relative,
        task.key,
        task.command,
        code,
        verdict=str((found or {}).get("verdict") or ""),
        message=message,
        seconds=round(time.monotonic() - begun, 3),
        nodes=_pair(found, "nodes"),
        normalizations=_pair(found, "batch_normalizations"),
        report=task.report if written else "",
    )


def _report(task: Task) -> dict[str, Any]:
    options: Options = COMMANDS[task.command].from_dict(task.options)
    match task.command:
        case "verify":
            found = api.verify_with(task.reference, task.source, options)  # type: ignore[arg-type]
            return ComparisonReport.of(found, task.reference, task.source, options.to_dict()).to_dict()
        case "inspect":
            return api.inspect_with(task.source, options).to_dict()  # type: ignore[arg-type]
        case _:
            Path(task.output).parent.mkdir(parents=True, exist_ok=True)
            return api.optimize_with(task.source, task.output, options).report.to_dict()  # type: ignore[arg-type]


def _write(task: Task, found: Mapping[str, Any] | None) -> bool:
    """Write the report of the model; where that cannot be done the row still tells."""
    if found is None:
        return False
    with suppress(OSError):
        path = Path(task.report)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
        temporary.replace(path)
        return True
    return False


def _pair(found: Mapping[str, Any] | None, name: str) -> tuple[int | None, int | None]:
    """A figure before and after, as far as the report has it."""
    report = found or {}
    before, after = report.get("input") or report.get("model") or {}, report.get("output") or {}
    return before.get(name), after.get(name)
