"""One optimization, along a straight line: read, passes, write beside the output, verify that very file, publish.

Where the result differs, the line is gone again with some folds forbidden, to find the guilty ones and, if that was
asked for, to publish the rest. Nothing else goes back.
"""

import os
from pathlib import Path

from bnfold.errors import VerificationError
from bnfold.optimization.attempt import attempt, prepared
from bnfold.optimization.reporting import failure_message, report_of
from bnfold.optimization.request import Request, Result, comparison
from bnfold.optimization.rollback import rolled_back
from bnfold.optimization.summary import input_summary
from bnfold.sources import destination, same_kind

__all__ = ["Request", "Result", "comparison", "input_summary", "optimize"]


def optimize(request: Request) -> Result:
    """Do what `request` asks for. Raises what `bnfold.optimize` raises."""
    with destination(request.target) as publication:
        setup = prepared(request, publication)
        made, attribution = attempt(setup), None
        if made.verdict == "not-equivalent":
            made, attribution = rolled_back(setup, made)
        report = report_of(setup, made, attribution)
        if report.exit_code:
            if request.options.keep_failed and request.target is not None:
                publication.keep_as(failed_name(request.target))
            raise VerificationError(failure_message(report, request), report)
        model = None if request.output is not None or request.options.dry_run else same_kind(request.model, made.file)
        if report.published is not None:
            publication.publish()
        return Result(model, report)


def failed_name(output: str | os.PathLike[str]) -> Path:
    """Where a result that failed is kept: NAME.failed.onnx beside `output`."""
    path = Path(output)
    return path.with_name(f"{path.stem}.failed{path.suffix or '.onnx'}")
