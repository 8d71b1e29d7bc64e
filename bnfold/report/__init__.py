"""Reports as data, and the renderers that show them."""

from typing import TYPE_CHECKING

from bnfold.late_imports import resolving

if TYPE_CHECKING:
    from bnfold.report.console import print_comparison as print_comparison
    from bnfold.report.console import print_console as print_console
    from bnfold.report.console import print_inspection as print_inspection
    from bnfold.report.console import print_judged as print_judged
    from bnfold.report.formats import Format as Format
    from bnfold.report.formats import render as render
    from bnfold.report.inspection import Diagnosed as Diagnosed
    from bnfold.report.inspection import Inspection as Inspection
    from bnfold.report.inspection import NormalizationInfo as NormalizationInfo
    from bnfold.report.json_report import to_json as to_json
    from bnfold.report.judging import Judged as Judged
    from bnfold.report.judging import judge_report as judge_report
    from bnfold.report.report import FORMAT_VERSION as FORMAT_VERSION
    from bnfold.report.report import GOOD as GOOD
    from bnfold.report.report import AnyReport as AnyReport
    from bnfold.report.report import ComparisonReport as ComparisonReport
    from bnfold.report.report import FailureReport as FailureReport
    from bnfold.report.report import ModelSummary as ModelSummary
    from bnfold.report.report import Report as Report
    from bnfold.report.saved import read_report as read_report

# Where each name is. Resolved on first use: few of these modules are needed by any one command.
_HOME = {
    **dict.fromkeys(("print_comparison", "print_console", "print_inspection", "print_judged"), "bnfold.report.console"),
    **dict.fromkeys(("Format", "render"), "bnfold.report.formats"),
    **dict.fromkeys(("Diagnosed", "Inspection", "NormalizationInfo"), "bnfold.report.inspection"),
    "to_json": "bnfold.report.json_report",
    **dict.fromkeys(("Judged", "judge_report"), "bnfold.report.judging"),
    **dict.fromkeys(
        ("FORMAT_VERSION", "GOOD", "AnyReport", "ComparisonReport", "FailureReport", "ModelSummary", "Report"),
        "bnfold.report.report",
    ),
    "read_report": "bnfold.report.saved",
}

__all__ = sorted(_HOME)


__getattr__ = resolving(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
