"""One optimization, along a straight line: read, passes, write beside the output, verify that very file, publish.

Where the result differs, the line is gone again with some folds or passes forbidden, to find the guilty ones and, if
that was asked for, to publish the rest. Nothing else goes back.
"""

from bnfold.errors import VerificationError
from bnfold.optimization.attempt import attempt, prepared
from bnfold.optimization.existing_output import source_mark
from bnfold.optimization.notes import notes_on
from bnfold.optimization.reporting import failure_message, report_of, unmatched, with_left_data
from bnfold.optimization.request import Request, Result, refuse_output
from bnfold.optimization.rollback import rolled_back
from bnfold.optimization.summary import input_summary
from bnfold.sources import destination, same_kind

__all__ = ["Request", "Result", "input_summary", "notes_on", "optimize", "refuse_output", "unmatched"]


def optimize(request: Request) -> Result:
    """Do what `request` asks for. Raises what `bnfold.optimize` raises."""
    with destination(request.target) as publication:
        setup = prepared(request, publication)
        made, attribution = attempt(setup), None
        if made.verdict == "not-equivalent" or made.unsound:
            made, attribution = rolled_back(setup, made)
        report = report_of(setup, made, attribution)
        if report.exit_code:
            if request.failed_copy is not None:
                publication.keep_as(request.failed_copy, source_mark(request))
            raise VerificationError(failure_message(report, request), report)
        model = None if request.output is not None or request.options.dry_run else same_kind(request.model, made.file)
        if report.published is not None:
            if setup.existing is not None:
                setup.existing.require_made_from_input(made.file, publication.path)
            publication.publish(source_mark(request))
            report = with_left_data(report, publication.left)
        return Result(model, report)
